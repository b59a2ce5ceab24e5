// Kvindex runs llm-d's KV-event index, as a scheduler does, for a test that talks to it. Its argument is the engine whose
// events it reads: vllm, or sglang.
//
// It reads one JSON request a line on its standard input and answers each with one line: what is subscribed to, what is
// asked for again, and how the index scores a prompt. Subscribers, decoding, index and scores are the library's; it has no
// replay, so that is done here as its users do it: the batches that come back are given to the same pool.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/go-zeromq/zmq4"
	"github.com/llm-d/llm-d-kv-cache/pkg/kvcache"
	"github.com/llm-d/llm-d-kv-cache/pkg/kvcache/kvblock"
	"github.com/llm-d/llm-d-kv-cache/pkg/kvevents"
	"github.com/llm-d/llm-d-kv-cache/pkg/kvevents/engineadapter"
)

const patience = 20 * time.Second

type request struct {
	Op       string   `json:"op"`       // subscribe, unsubscribe, replay, settle, clear, score
	Pod      string   `json:"pod"`      // a server as its topic names it
	Endpoint string   `json:"endpoint"` // what to dial, or to bind
	Bind     bool     `json:"bind"`
	Topic    string   `json:"topic"`
	Sequence uint64   `json:"sequence"` // replay: the first one wanted; settle: the last one that must be in the index
	Model    string   `json:"model"`
	Tokens   []uint32 `json:"tokens"`
}

// watched is the library's adapter for an engine, with a note of what it has seen.
type watched struct {
	kvevents.EngineAdapter
	mu     sync.Mutex
	last   map[string]uint64
	failed []string
	marks  map[*kvevents.RawMessage]chan struct{}
}

// ParseMessage decodes a batch. A mark is none: all batches before it in its queue are in the index by now.
func (w *watched) ParseMessage(msg *kvevents.RawMessage) (string, string, kvevents.EventBatch, error) {
	w.mu.Lock()
	mark := w.marks[msg]
	delete(w.marks, msg)
	w.mu.Unlock()
	if mark != nil {
		close(mark)
		return "", "", kvevents.EventBatch{}, nil
	}
	pod, model, batch, err := w.EngineAdapter.ParseMessage(msg)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last[msg.Topic] = msg.Sequence
	if err != nil {
		w.failed = append(w.failed, err.Error())
	}
	return pod, model, batch, err
}

type service struct {
	ctx     context.Context
	indexer *kvcache.Indexer
	adapter *watched
	pool    *kvevents.Pool
	manager *kvevents.SubscriberManager
}

func newService(ctx context.Context, engine string) (*service, error) {
	decoder, err := engineadapter.NewAdapter(engine)
	if err != nil {
		return nil, err
	}
	tokens, err := kvblock.NewChunkedTokenDatabase(kvblock.DefaultTokenProcessorConfig())
	if err != nil {
		return nil, err
	}
	config, err := kvcache.NewDefaultConfig()
	if err != nil {
		return nil, err
	}
	indexer, err := kvcache.NewKVCacheIndexer(ctx, config, tokens)
	if err != nil {
		return nil, err
	}
	adapter := &watched{
		EngineAdapter: decoder,
		last:          map[string]uint64{},
		marks:         map[*kvevents.RawMessage]chan struct{}{},
	}
	pool := kvevents.NewPool(kvevents.DefaultConfig(), indexer.KVBlockIndex(), tokens, adapter)
	pool.Start(ctx)
	return &service{ctx, indexer, adapter, pool, kvevents.NewSubscriberManager(pool)}, nil
}

func (s *service) do(r request) (any, error) {
	switch r.Op {
	case "subscribe":
		return "subscribed", s.manager.EnsureSubscriber(s.ctx, r.Pod, r.Endpoint, "kv@", !r.Bind)
	case "unsubscribe":
		s.manager.RemoveSubscriber(s.ctx, r.Pod)
		return "unsubscribed", nil
	case "replay":
		return s.replay(r.Endpoint, r.Sequence)
	case "settle":
		return s.settle(r.Topic, r.Sequence)
	case "clear":
		return "cleared", s.indexer.KVBlockIndex().Clear(s.ctx, r.Pod)
	case "score":
		return s.indexer.ScoreTokens(s.ctx, r.Tokens, r.Model, nil, nil)
	}
	return nil, fmt.Errorf("no such operation: %q", r.Op)
}

// replay gives the pool every batch that a server still has from a number on; returns how many there were.
func (s *service) replay(endpoint string, first uint64) (int, error) {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	socket := zmq4.NewDealer(ctx)
	defer socket.Close()
	if err := socket.Dial(endpoint); err != nil {
		return 0, err
	}
	begin := binary.BigEndian.AppendUint64(nil, first)
	if err := socket.SendMulti(zmq4.NewMsgFrom([]byte{}, begin)); err != nil {
		return 0, err
	}
	for count := 0; ; count++ {
		message, err := socket.Recv()
		if err != nil {
			return count, err
		}
		frames := message.Frames
		if len(frames) != 4 {
			return count, fmt.Errorf("a replayed message has %d frames", len(frames))
		}
		if len(frames[3]) == 0 {
			return count, nil
		}
		s.pool.AddTask(&kvevents.RawMessage{
			Topic: string(frames[1]), Sequence: binary.BigEndian.Uint64(frames[2]), Payload: frames[3],
		})
	}
}

// settle returns when the index knows all batches of a topic up to a number, with what could not be decoded.
func (s *service) settle(topic string, sequence uint64) ([]string, error) {
	for deadline := time.Now().Add(patience); ; time.Sleep(2 * time.Millisecond) {
		s.adapter.mu.Lock()
		last, known := s.adapter.last[topic]
		s.adapter.mu.Unlock()
		if known && last >= sequence {
			break
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("batch %d of %s never came; the last one was %d", sequence, topic, last)
		}
	}
	mark, done := &kvevents.RawMessage{Topic: topic}, make(chan struct{})
	s.adapter.mu.Lock()
	s.adapter.marks[mark] = done
	s.adapter.mu.Unlock()
	s.pool.AddTask(mark)
	<-done
	s.adapter.mu.Lock()
	defer s.adapter.mu.Unlock()
	return s.adapter.failed, nil
}

func main() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	engine := "vllm"
	if len(os.Args) > 1 {
		engine = os.Args[1]
	}
	s, err := newService(ctx, engine)
	if err != nil {
		fmt.Fprintln(os.Stderr, "kvindex:", err)
		os.Exit(1)
	}
	answers := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var r request
		answer := map[string]any{}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			answer["error"] = err.Error()
		} else if result, err := s.do(r); err != nil {
			answer["error"] = err.Error()
		} else {
			answer["result"] = result
		}
		if err := answers.Encode(answer); err != nil {
			return
		}
	}
}
