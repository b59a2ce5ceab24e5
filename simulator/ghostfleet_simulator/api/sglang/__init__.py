"""What SGLang's API has beside OpenAI's."""
