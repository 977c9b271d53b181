package fidelity

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/vpclab/vpclab/topo"
)

// passage is one packet's way over a link: when it came to near, and when to
// far; 0: it did not.
type passage struct{ in, out int64 }

// took is how long the link had it.
func (p passage) took() time.Duration { return time.Duration(p.out - p.in) }

// salvo sends n small packets over each link of the lane, from src, one to each
// every pace (0: as fast as they go), and gives each link's in order.
func (l *lane) salvo(ctx context.Context, n int, pace time.Duration, size int) ([][]passage, error) {
	g, err := openGun(l.enter, srcNode, size, roomBytes)
	if err != nil {
		return nil, err
	}
	defer g.close()
	all := make([][]passage, len(l.links))
	longest := time.Duration(0)
	for i, link := range l.links {
		all[i] = make([]passage, n)
		wait := time.Duration(link.Delay + 6*link.Jitter)
		if link.Rate > 0 {
			wait += time.Duration(float64(n*size+n*overhead) * 8e9 / float64(link.Rate))
		}
		longest = max(longest, wait)
	}
	taps := append([]*tap{l.in}, l.out...)
	for _, t := range taps {
		t.forget()
		if _, err := t.drops(); err != nil {
			return nil, err
		}
	}
	came, number := 0, uint32(0)
	see := func(tapped int, f *frame) {
		s, ok := parse(f.Data)
		if !ok || f.Out || int(s.number) >= n {
			return
		}
		if tapped == 0 {
			if a := s.dst.As4(); a[2] >= 1 && int(a[2]) <= len(all) { // see farAddr
				all[a[2]-1][s.number].in = f.At
			}
			return
		}
		all[tapped-1][s.number].out = f.At
		came++
	}
	ticker := time.NewTicker(max(pace, time.Nanosecond))
	defer ticker.Stop()
	for ; int(number) < n; number++ {
		if pace > 0 {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
		for i := range l.links {
			if !g.load(farAddr(i), number, size) {
				continue
			}
			if err := g.fire(); err != nil {
				return nil, err
			}
		}
		if pace > 0 {
			if err := g.fire(); err != nil {
				return nil, err
			}
		}
	}
	if err := g.fire(); err != nil {
		return nil, err
	}
	err = await(ctx, longest+lossWait, taps, see, func() bool { return came == n*len(l.links) })
	if err != nil && !errors.Is(err, errLate) {
		return nil, err
	}
	for _, t := range taps {
		if lost, err := t.drops(); err != nil || lost > 0 {
			return nil, errors.Join(err, fmt.Errorf("the tap on %s lost %d frames", t.name, lost))
		}
	}
	return all, nil
}

// lossWait is how much longer than it may take one waits for a packet until it
// is lost.
const lossWait = 500 * time.Millisecond

// delays of what came, in ms, and how many did not.
func delays(way []passage) (ms []float64, lost int) {
	for _, p := range way {
		if p.in == 0 || p.out == 0 {
			lost++
			continue
		}
		ms = append(ms, float64(p.took())/1e6)
	}
	return ms, lost
}

// millis is a duration in ms.
func millis(d topo.Duration) float64 { return float64(d) / 1e6 }
