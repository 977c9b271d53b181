package speed

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"time"
)

// contestant is one way to build the star.
type contestant struct {
	name  string
	build func(n int) (*built, error)
	// unable says why it cannot take part here; nil: it always can.
	unable func() string
	// rounds is in how many of them it takes part at n machines, where that
	// is not all: those who need minutes.
	rounds func(n int) (most int, why string)
}

// lap is what one contestant did in one round.
type lap struct {
	build, destroy time.Duration
	gone           time.Duration // from the begin of destroy until the kernel has its memory back
	memory         float64       // kB a machine in the kernel and in processes that it needs
}

// contest lets contestants build and destroy stars of one size in turns.
type contest struct {
	n           int
	contestants []contestant
	order       *rand.Rand
	laps        map[string][]lap
	absent      map[string]string // why
}

func newContest(n int, contestants []contestant) *contest {
	c := &contest{n: n, order: rand.New(rand.NewPCG(1, uint64(n))), laps: map[string][]lap{}, absent: map[string]string{}}
	for _, x := range contestants {
		if x.unable != nil {
			if why := x.unable(); why != "" {
				c.absent[x.name] = why
				continue
			}
		}
		if most, why := c.most(x); most == 0 {
			c.absent[x.name] = why
			continue
		}
		c.contestants = append(c.contestants, x)
	}
	return c
}

// most is how many rounds x takes part in; -1: all.
func (c *contest) most(x contestant) (int, string) {
	if x.rounds == nil {
		return -1, ""
	}
	return x.rounds(c.n)
}

// round lets everybody build once, in an order of its own. Each star is proved
// to work before it goes.
func (c *contest) round() error {
	for _, i := range c.order.Perm(len(c.contestants)) {
		x := c.contestants[i]
		if most, _ := c.most(x); most >= 0 && len(c.laps[x.name]) >= most {
			continue
		}
		l, err := c.lap(x)
		if err != nil {
			return fmt.Errorf("%s, %d machines: %w", x.name, c.n, err)
		}
		c.laps[x.name] = append(c.laps[x.name], l)
	}
	return nil
}

// warmUp has the kernel touch all the memory that it will need: in a booted
// kernel the first use of a page costs more than the second.
func (c *contest) warmUp() error {
	for _, x := range c.contestants {
		if most, _ := c.most(x); most >= 0 {
			continue // minutes
		}
		if _, err := c.lap(x); err != nil {
			return fmt.Errorf("%s, %d machines, warming up: %w", x.name, c.n, err)
		}
	}
	return nil
}

func (c *contest) lap(x contestant) (lap, error) {
	runtime.GC() // nobody pays for another's garbage
	before, err := settledMemory()
	if err != nil {
		return lap{}, err
	}
	b, err := x.build(c.n)
	if err != nil {
		return lap{}, fmt.Errorf("build: %w", err)
	}
	after, err := memoryInUse()
	if err != nil {
		return lap{}, err
	}
	if err := b.works(c.n); err != nil {
		return lap{}, fmt.Errorf("it does not work: %w", err)
	}
	began := time.Now()
	down, err := b.destroy()
	if err != nil {
		return lap{}, fmt.Errorf("destroy: %w", err)
	}
	gone, err := sinkingMemory(began)
	if err != nil {
		return lap{}, fmt.Errorf("destroy: %w", err)
	}
	return lap{b.took, down, gone, (after - before) / float64(c.n)}, nil
}

// sinkingMemory waits while the memory in use sinks, and says when it last did,
// from a moment on. What is called destroyed has no devices any more; the
// kernel takes the rest apart after that.
func sinkingMemory(from time.Time) (last time.Duration, err error) {
	const (
		tick     = 2 * time.Millisecond
		quiet    = 300 * time.Millisecond
		patience = 60 * time.Second
		little   = 50 // kB
	)
	least, err := memoryInUse()
	last = time.Since(from)
	for err == nil && time.Since(from) < last+quiet {
		if time.Since(from) > patience {
			return 0, fmt.Errorf("the kernel still gives memory back after %v", patience)
		}
		time.Sleep(tick)
		var now float64
		if now, err = memoryInUse(); now < least-little {
			least, last = now, time.Since(from)
		}
	}
	return last, err
}

// settledMemory is memoryInUse when the kernel has given back what the last
// star had: it does so in the background.
func settledMemory() (float64, error) {
	const (
		tick     = 50 * time.Millisecond
		quiet    = 4   // ticks without a fall
		little   = 100 // kB
		patience = 10 * time.Second
	)
	least, err := memoryInUse()
	for still, until := 0, time.Now().Add(patience); err == nil && still < quiet; still++ {
		if time.Now().After(until) {
			return 0, fmt.Errorf("the kernel still gives memory back after %v", patience)
		}
		time.Sleep(tick)
		var now float64
		if now, err = memoryInUse(); now < least-little {
			still = -1
		}
		least = min(least, now)
	}
	return least, err
}

// memoryInUse is the memory of this machine that is not free, in kB, without
// what this process itself has.
func memoryInUse() (float64, error) {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	return field(info, "MemTotal:") - field(info, "MemAvailable:") - field(status, "RssAnon:"), nil
}

// field is the number behind a name in a file of /proc.
func field(text []byte, name string) float64 {
	_, rest, _ := bytes.Cut(text, []byte(name))
	words := bytes.Fields(rest)
	if len(words) == 0 {
		return 0
	}
	v, _ := strconv.ParseFloat(string(words[0]), 64)
	return v
}

// seconds are the times of a contestant, by part.
func (c *contest) seconds(name string, part func(lap) time.Duration) []float64 {
	var out []float64
	for _, l := range c.laps[name] {
		out = append(out, part(l).Seconds())
	}
	return out
}

// ratios are a contestant's times over those of the floor in the same rounds:
// what moves from round to round moves both.
func (c *contest) ratios(name string, part func(lap) time.Duration) []float64 {
	var out []float64
	base := c.laps["floor"]
	for i, l := range c.laps[name] {
		if i < len(base) {
			out = append(out, float64(part(l))/float64(part(base[i])))
		}
	}
	return out
}

func (l lap) up() time.Duration   { return l.build }
func (l lap) down() time.Duration { return l.destroy }
func (l lap) back() time.Duration { return l.gone }
