package fidelity

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vpclab/vpclab/topo"
)

const (
	// Room of a sender's socket, in kernel memory: enough for a stall of the
	// machine to pass without the line running dry.
	roomBytes = 8 << 20
	frameRoom = 2304 // kernel memory of a full frame
	// superSegments of a super frame: as many full ones as 64 KiB hold.
	superSegments = 44
	slack         = 10 * time.Second // beside the time that the line takes
)

// volley is a row of frames sent down one line as fast as it takes them.
type volley struct {
	rate   topo.Rate
	frame  int     // bytes of each on the wire; of a super frame all its segments
	load   int     // bytes of UDP payload of each
	handed []int64 // when the kernel was known to have it, ns
	at     []int64 // when it came off the link; 0: it did not
}

// blast sends n frames over the one link of the lane, from its near end. super
// makes each a super frame that the kernel does not cut.
func (l *lane) blast(ctx context.Context, n int, super bool) (*volley, error) {
	v := &volley{rate: l.links[0].Rate, frame: fullFrame, load: fullLoad, handed: make([]int64, n), at: make([]int64, n)}
	if super {
		v.frame, v.load = superSegments*fullFrame, superSegments*fullLoad
	}
	g, err := openGun(l.enter, nearNode, v.load, roomBytes)
	if err != nil {
		return nil, err
	}
	defer g.close()
	if super {
		if err := g.segments(fullLoad); err != nil {
			return nil, fmt.Errorf("super frames from %s: %w", nearNode, err)
		}
	}
	l.out[0].forget()
	if _, err := l.out[0].drops(); err != nil {
		return nil, err
	}
	fired := make(chan error, 1)
	go func() { fired <- g.volley(farAddr(0), v) }()
	came := 0
	err = await(ctx, v.ideal(n)+slack, l.out, func(_ int, f *frame) {
		if s, ok := parse(f.Data); ok && !s.icmp && int(s.number) < n {
			v.at[s.number] = f.At
			came++
		}
	}, func() bool { return came == n })
	if e := <-fired; e != nil {
		return nil, e
	}
	if err != nil && !errors.Is(err, errLate) {
		return nil, err
	}
	if lost, e := l.out[0].drops(); e != nil || lost > 0 {
		return nil, errors.Join(e, fmt.Errorf("the tap on %s lost %d frames", l.out[0].name, lost))
	}
	return v, nil
}

// volley fires all frames and notes when each batch was in the kernel.
func (g *gun) volley(to netip.Addr, v *volley) error {
	first := 0
	for i := range v.handed {
		if full := g.load(to, uint32(i), v.load); !full && i+1 < len(v.handed) {
			continue
		}
		if err := g.fire(); err != nil {
			return err
		}
		now := time.Now().UnixNano()
		for ; first <= i; first++ {
			v.handed[first] = now
		}
	}
	return nil
}

// ideal is how long the line takes for n frames.
func (v *volley) ideal(n int) time.Duration {
	return time.Duration(float64(n) * v.gap())
}

// gap between two frames of a line that is kept busy, in ns.
func (v *volley) gap() float64 { return float64(v.frame) * 8e9 / float64(v.rate) }

// deviations of the gaps from the ideal, in percent of it, without sign, and
// how many gaps there were in all. A gap counts if the later frame is proven
// to have waited when the earlier one came off the link: else the line may
// have been idle, and that is no fault of its own.
func (v *volley) deviations() (percent []float64, gaps int) {
	for i := 1; i < len(v.at); i++ {
		if v.at[i-1] == 0 || v.at[i] == 0 {
			continue
		}
		gaps++
		if v.handed[i] < v.at[i-1] {
			d := float64(v.at[i]-v.at[i-1])/v.gap() - 1
			percent = append(percent, 100*max(d, -d))
		}
	}
	return percent, gaps
}

// goodput of what came, from the first frame to the last, in bits of payload a
// second; lost are those that did not come.
func (v *volley) goodput() (bps float64, lost int) {
	first, last, came := int64(0), int64(0), 0
	for _, t := range v.at {
		if t == 0 {
			lost++
			continue
		}
		if came++; came == 1 {
			first = t
		}
		last = t
	}
	return float64(came-1) * float64(v.load) * 8e9 / float64(last-first), lost
}
