"""Text: tokenizers, chat templates, what a server answers, and how its tokens become text again."""
