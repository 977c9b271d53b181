package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/emu/migrate"
)

// ends are both ends of a channel, served until the test is over.
func ends(t *testing.T, handle func(context.Context, string, json.RawMessage) (any, error), sink event.Sink) (asking, answering *channel, conns [2]net.Conn) {
	t.Helper()
	a, b := net.Pipe()
	asking, answering = newChannel(a, nil, sink), newChannel(b, handle, nil)
	done := make(chan error, 2)
	for _, c := range []*channel{asking, answering} {
		go func() { done <- c.serve(t.Context()) }()
	}
	t.Cleanup(func() {
		a.Close()
		for range 2 {
			<-done
		}
	})
	return asking, answering, [2]net.Conn{a, b}
}

// TestChannel asks many things at a time; errors keep what they are, and answers
// that come with an error are read.
func TestChannel(t *testing.T) {
	release := make(chan struct{})
	told := make(chan event.Event, 1)
	asking, answering, _ := ends(t, func(_ context.Context, op string, body json.RawMessage) (any, error) {
		switch op {
		case "slow":
			<-release
		case "commit":
			return map[string]int{"far": 3}, fmt.Errorf("VM shop: %w", migrate.ErrAborted)
		}
		return body, nil
	}, func(e event.Event) { told <- e })
	slow := make(chan error, 1)
	go func() { slow <- asking.call(t.Context(), "slow", 1, nil) }()
	var echoed string
	if err := asking.call(t.Context(), "echo", "words", &echoed); err != nil || echoed != "words" {
		t.Errorf("%q, %v", echoed, err)
	}
	var out struct{ Far int }
	if err := asking.call(t.Context(), "commit", nil, &out); !errors.Is(err, migrate.ErrAborted) || err.Error() != "VM shop: "+migrate.ErrAborted.Error() || out.Far != 3 {
		t.Errorf("%+v, %v", out, err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 10*time.Millisecond, errors.New("no patience"))
	defer cancel()
	if err := asking.call(ctx, "slow", 2, nil); err == nil || err.Error() != "no patience" {
		t.Errorf("a call without an answer: %v", err)
	}
	close(release)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	answering.emit(event.Event{Kind: "vm.started", Node: "shop"})
	if e := <-told; e.Kind != "vm.started" {
		t.Errorf("told %v", e)
	}
}

// TestChannelEnds: who waits learns that the other end is gone.
func TestChannelEnds(t *testing.T) {
	asking, _, conns := ends(t, func(ctx context.Context, _ string, _ json.RawMessage) (any, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}, nil)
	waiting := make(chan error, 1)
	go func() { waiting <- asking.call(t.Context(), "wait", nil, nil) }()
	time.AfterFunc(10*time.Millisecond, func() { conns[1].Close() })
	if err := <-waiting; !errors.Is(err, errGone) {
		t.Errorf("a call whose answerer is gone: %v", err)
	}
	if err := asking.call(t.Context(), "again", nil, nil); err == nil {
		t.Error("a call to nobody succeeds")
	}
}

func TestMessagesThatAreNone(t *testing.T) {
	for _, line := range []string{
		``, `{}`, `{"id":1}`, `{"op":"own"}`, `{"id":1,"op":"own","re":2}`, `{"re":1,"event":{"kind":"x"}}`,
		`{"id":1,"op":"own"} {}`, `{"id":1,"op":"own","more":1}`, `[]`, `{"id":-1,"op":"x"}`,
	} {
		if m, err := decodeMessage([]byte(line)); err == nil {
			t.Errorf("%s is taken for %+v", line, m)
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"id":1,"op":"own","body":{"vm":"shop"}}`))
	f.Add([]byte(`{"re":1,"error":"no","is":"aborted"}`))
	f.Fuzz(func(_ *testing.T, line []byte) {
		if m, err := decodeMessage(line); err == nil {
			_ = m.outcome(&order{})
		}
	})
}

func TestParseFailAt(t *testing.T) {
	for text, want := range map[string]failure{
		"":                          {},
		"source-paused=kill":        {"source-paused", 1, actKill},
		"target-batch#12=hold":      {"target-batch", 12, actHold},
		"disk-target-settled=guest": {"disk-target-settled", 1, actGuest},
	} {
		if got, err := ParseFailAt(text); err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"source-paused":        "want STEP=ACTION",
		"source-pausd=kill":    "there is no step",
		"source-paused=burn":   "there is no action",
		"source-paused#0=kill": "is no number from 1",
		"source-paused#x=kill": "is no number from 1",
	} {
		if _, err := ParseFailAt(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}
