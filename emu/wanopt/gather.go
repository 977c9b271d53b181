package wanopt

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// gathering adds up what the streams of one migration have counted.
type gathering struct {
	warn func(string)

	mu  sync.Mutex
	sum Stats
}

// odd keeps, once, what a user should know.
func (g *gathering) odd(channel uint8, what string) {
	if channel > 0 {
		what = fmt.Sprintf("connection %d: %s", channel+1, what)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !slices.Contains(g.sum.Odd, what) {
		g.sum.Odd = append(g.sum.Odd, what)
		if g.warn != nil {
			g.warn(what)
		}
	}
}

// add takes a stream's counts. The hashes are those of the first one.
func (g *gathering) add(channel uint8, st Stats) {
	if channel > 0 {
		g.odd(0, fmt.Sprintf("QEMU made %d connections: only pages of the first one are recognised", channel+1))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	s := &g.sum
	s.Streams++
	s.Bytes += st.Bytes
	s.Back += st.Back
	s.WANOut += st.WANOut
	s.WANIn += st.WANIn
	s.Batches += st.Batches
	s.Pages += st.Pages
	s.Zeros += st.Zeros
	s.Other += st.Other
	s.Reconnects += st.Reconnects
	s.Footprint += st.Footprint
	s.Waited.QEMU += st.Waited.QEMU
	s.Waited.Link += st.Waited.Link
	s.Equal = st.Equal && (s.Streams == 1 || s.Equal)
	if channel == 0 {
		s.SHA256, s.Encoders, s.Theirs = st.SHA256, st.Encoders, st.Theirs
	}
}

// finish closes the books.
func (g *gathering) finish(took, cpu time.Duration) *Stats {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sum.Took, g.sum.CPU = took, cpu
	g.sum.Passed = g.sum.Pages == 0
	return &g.sum
}
