// Package event is the lab's time line: what happened, where, and when by the
// one clock that all processes of a lab kernel share.
package event

import (
	"time"

	"github.com/vpclab/vpclab/emu/clock"
)

// Event is one thing that happened. Kind is dotted, general first:
// "node.up", "bgp.established", "route.programmed", "speaker.exit".
type Event struct {
	T    Mono              `json:"t_ns"` // CLOCK_MONOTONIC of the lab kernel
	Wall time.Time         `json:"wall"`
	Node string            `json:"node,omitempty"`
	Kind string            `json:"kind"`
	Attr map[string]string `json:"attr,omitempty"`
}

// Mono is CLOCK_MONOTONIC in nanoseconds: comparable between processes of one
// kernel, meaningless between kernels.
type Mono int64

// Now reads the clock; package clock makes that cheap in User Mode Linux, too.
func Now() Mono { return Mono(clock.Mono()) }

// Sub is the time from u to t.
func (t Mono) Sub(u Mono) time.Duration { return time.Duration(t - u) }

// New is an Event of this moment.
func New(node, kind string, attr map[string]string) Event {
	return Event{T: Now(), Wall: time.Now(), Node: node, Kind: kind, Attr: attr}
}

// Sink takes events; it must not block for long and is called from many
// goroutines.
type Sink func(Event)
