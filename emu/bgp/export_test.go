package bgp

import (
	"testing"

	"github.com/vpclab/vpclab/emu/event"
)

// SpeakerArg makes this test program a speaker (see TestMain).
const SpeakerArg = speakerArg

// Recorder is recorder for the tests outside the package.
type Recorder struct{ r *recorder }

func NewRecorder() *Recorder           { return &Recorder{newRecorder()} }
func (r *Recorder) Sink(e event.Event) { r.r.sink(e) }
func (r *Recorder) Mark() int          { return r.r.mark() }
func (r *Recorder) Wait(t *testing.T, mark int, node, kind string, attrs ...string) event.Event {
	t.Helper()
	return r.r.wait(t, mark, node, kind, attrs...)
}

func (r *Recorder) Count(mark int, node, kind string, attrs ...string) int {
	return r.r.count(mark, node, kind, attrs...)
}

func (r *Recorder) Until(t *testing.T, mark int, what string, done func(event.Event) bool) {
	t.Helper()
	r.r.until(t, mark, what, done)
}
