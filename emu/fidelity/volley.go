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
	from   int     // first frame that counts
}

func newVolley(rate topo.Rate, n int, super bool) *volley {
	v := &volley{rate: rate, frame: fullFrame, load: fullLoad, handed: make([]int64, n), at: make([]int64, n)}
	if super {
		v.frame, v.load = superSegments*fullFrame, superSegments*fullLoad
	}
	return v
}

// open makes a socket at near for the frames of a volley.
func (v *volley) open(l *lane, room int) (*gun, error) {
	g, err := openGun(l.enter, nearNode, v.load, room)
	if err == nil && v.load > fullLoad {
		if err = g.segments(fullLoad); err != nil {
			g.close()
		}
	}
	return g, err
}

// blast sends n frames over the one link of the lane, from its near end, as
// fast as the socket takes them. super makes each a super frame that the
// kernel does not cut.
func (l *lane) blast(ctx context.Context, n int, super bool) (*volley, error) {
	v := newVolley(l.links[0].Rate, n, super)
	g, err := v.open(l, roomBytes)
	if err != nil {
		return nil, err
	}
	defer g.close()
	fired := make(chan error, 1)
	go func() { fired <- g.volley(farAddr(0), v) }()
	err = l.catch(ctx, v)
	if e := <-fired; e != nil {
		return nil, e
	}
	return v, err
}

const (
	dripRate = 1e6 // at least, of a line that is to fill up
	// Kernel memory of a frame and of a super frame, with what it takes beside
	// its bytes.
	superRoom = 100 << 10
)

// release fills the queue of the line, which hardly drips meanwhile, with n
// frames, and then makes it as fast as it is to be: no sender then takes the
// machine from it. The frames that left before are not in the result.
func (l *lane) release(ctx context.Context, n int, super bool) (*volley, error) {
	fast := l.links[0]
	slow := fast
	slow.Rate = max(dripRate, fast.Rate/1000)
	if super {
		slow.Rate *= superSegments
	}
	if err := l.set(ctx, []topo.Impairment{slow}); err != nil {
		return nil, err
	}
	v := newVolley(fast.Rate, n, super)
	room := n * frameRoom * 5 / 4
	if super {
		room = n * superRoom * 5 / 4
	}
	g, err := v.open(l, room)
	if err != nil {
		return nil, err
	}
	defer g.close()
	if err := g.volley(farAddr(0), v); err != nil {
		return nil, err
	}
	changed := time.Now().UnixNano()
	if err := l.set(ctx, l.links); err != nil {
		return nil, err
	}
	err = l.catch(ctx, v)
	v.from = v.settled(changed)
	return v, err
}

// transient are frames that leave while the rate of their line changes.
const transient = 10

// settled is the first frame that leaves when a line whose rate was changed
// keeps to its schedule again. The schedule begins with the change, but the
// first frame leaves when the timer of the old rate ends: the line is behind
// until then, and makes up for it.
func (v *volley) settled(changed int64) int {
	for i, t := range v.at {
		if t > changed {
			return min(i+int(2*float64(t-changed)/v.gap())+transient, len(v.at)-1)
		}
	}
	return len(v.at) - 1
}

// catch waits until the frames of a volley have come, or can come no more.
func (l *lane) catch(ctx context.Context, v *volley) error {
	if _, err := l.out[0].drops(); err != nil { // those from before
		return err
	}
	last := len(v.at) - 1
	err := await(ctx, v.ideal(len(v.at))+slack, l.out, func(_ int, f *frame) {
		if s, ok := parse(f.Data); ok && !s.icmp && int(s.number) <= last {
			v.at[s.number] = f.At
		}
	}, func() bool { return v.at[last] != 0 }) // a line keeps the order
	if err != nil && !errors.Is(err, errLate) {
		return err
	}
	if lost, e := l.out[0].drops(); e != nil || lost > 0 {
		return errors.Join(e, fmt.Errorf("the tap on %s lost %d frames", l.out[0].name, lost))
	}
	return nil
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
	for i := v.from + 1; i < len(v.at); i++ {
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
	for _, t := range v.at[v.from:] {
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
