package traffic

import (
	"sort"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

// BulkResult is what a Bulk saw.
type BulkResult struct {
	Flows []BulkFlow // in the order asked for
}

// BulkFlow is one TCP flow of a Bulk.
type BulkFlow struct {
	Stream
	// Readings at the receiver, in order of time. The first is from before
	// the flow began to send.
	Readings   []Reading
	Resent     int    // segments that the sender sent again (TCP_INFO)
	Congestion string // congestion control, "cubic"
}

// Reading is how much payload had come in order to a receiver at a moment.
type Reading struct {
	At    event.Mono
	Bytes int64
}

// Bytes is how much payload arrived in all.
func (f *BulkFlow) Bytes() int64 {
	if len(f.Readings) == 0 {
		return 0
	}
	return f.Readings[len(f.Readings)-1].Bytes
}

// delivered is how much had arrived at a moment, by a straight line between
// the readings before and after it.
func (f *BulkFlow) delivered(at event.Mono) float64 {
	i := sort.Search(len(f.Readings), func(i int) bool { return f.Readings[i].At >= at })
	switch {
	case i == 0:
		return 0
	case i == len(f.Readings):
		return float64(f.Readings[i-1].Bytes)
	}
	a, b := f.Readings[i-1], f.Readings[i]
	return float64(a.Bytes) + float64(b.Bytes-a.Bytes)*float64(at-a.At)/float64(b.At-a.At)
}

// Goodput is the payload delivered between two moments, in bits a second.
// Each edge is as exact as the readings are close.
func (f *BulkFlow) Goodput(from, to event.Mono) float64 {
	if to <= from {
		return 0
	}
	return (f.delivered(to) - f.delivered(from)) * 8 / to.Sub(from).Seconds()
}

// Series is the goodput in n bins of one width, in bits a second. Bins that
// are narrower than the interval between readings show nothing more.
func (f *BulkFlow) Series(from event.Mono, bin time.Duration, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		at := from + event.Mono(i)*event.Mono(bin)
		out[i] = f.Goodput(at, at+event.Mono(bin))
	}
	return out
}
