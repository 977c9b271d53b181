package codec

import (
	"testing"
	"time"
)

// TestSpeed guards the floors of docs/performance.md, as shares of what memcpy
// does in the same moments, so that a slow or busy machine changes nothing: the
// best of some rounds of both, with room of three to five times. On a machine that
// copies 20 GB/s the shares are 2 GB/s (16 Gb/s) for zeros, 1.2 GB/s (10 Gb/s)
// for copies, 240 MB/s (2 Gb/s) for noise and 120 MB/s for a mixture.
func TestSpeed(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes some seconds")
	}
	if raceEnabled {
		t.Skip("with the race detector nothing has its speed")
	}
	floors := map[string]float64{"zero": 0.1, "duplicate": 0.06, "incompressible": 0.012, "mixed": 0.006}
	const pages, rounds, patience = 8192, 5, 4
	for _, content := range contents(pages) {
		floor, ok := floors[content.name]
		if !ok {
			continue
		}
		room := make([]byte, 0, len(content.memory)+len(content.memory)/8+1<<20)
		target := make([]byte, len(content.memory))
		encode, decode, copied := time.Hour, time.Hour, 0.0
		good := func() bool {
			least := time.Duration(float64(len(content.memory)) / copied / floor * 1e9)
			return encode <= least && decode <= least
		}
		for i := 0; i < rounds || i < rounds*patience && !good(); i++ {
			copied = max(copied, copyRate(content.memory))
			batches, took := encodeInto(t, own, content.memory, 0, room)
			encode = min(encode, took)
			decode = min(decode, decodeAll(t, own, target, batches))
		}
		rate := func(d time.Duration) float64 { return float64(len(content.memory)) / d.Seconds() }
		t.Logf("%-14s encode %6.0f MB/s (%.3f of memcpy), decode %6.0f MB/s (%.3f), memcpy %.0f MB/s",
			content.name, rate(encode)/1e6, rate(encode)/copied, rate(decode)/1e6, rate(decode)/copied, copied/1e6)
		if !good() {
			t.Errorf("%s: the encoder does %.4f of memcpy and the decoder %.4f, expected at least %.4f", content.name, rate(encode)/copied, rate(decode)/copied, floor)
		}
	}
}
