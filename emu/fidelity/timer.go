package fidelity

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
	"github.com/vpclab/vpclab/metrics"
	"github.com/vpclab/vpclab/topo"
)

const (
	tick = time.Millisecond
	// shortest link of a scenario that must not notice how late a node is
	// woken: a tenth of its delay is the bar. The scenarios of the library have
	// none that is shorter.
	shortest = 5 * time.Millisecond
	shareBar = 2.0 // percentage points that a node's share of the CPU may be off
)

// timers is F8: how late a node is woken, and whether nodes get equal shares.
func (r *run) timers(ctx context.Context) error {
	b := labBench(r.lab, topo.Impairment{})
	if err := b.set(ctx, []topo.Impairment{{}}); err != nil {
		return err
	}
	n := 5000
	if r.Quick {
		n = 1000
	}
	r.say("F8", b, "wake-ups")
	late, err := wakeups(ctx, b, n)
	if err != nil {
		return fmt.Errorf("F8: %w", err)
	}
	r.add(judgeWakeups(late))
	r.say("F8", b, "shares")
	out, err := r.shares(ctx)
	if err != nil {
		return fmt.Errorf("F8: %w", err)
	}
	r.add(out)
	return nil
}

// wakeups sleeps in a node until each of n times, and says how late it was
// awake, in us.
func wakeups(ctx context.Context, b *bench, n int) (late []float64, err error) {
	err = b.enter(farNode(0), func() error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		next := event.Now() + event.Mono(10*tick)
		for range n {
			if err := context.Cause(ctx); err != nil {
				return err
			}
			at := unix.NsecToTimespec(int64(next))
			for {
				err := unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &at, nil)
				if err == nil {
					break
				}
				if !errors.Is(err, unix.EINTR) {
					return os.NewSyscallError("clock_nanosleep", err)
				}
			}
			late = append(late, float64(event.Now()-next)/1e3)
			next += event.Mono(tick)
		}
		return nil
	})
	return late, err
}

func judgeWakeups(late []float64) metrics.Calibrated {
	s := sorted(late)
	p50, p99, worst := quantile(s, 0.5), quantile(s, 0.99), s[len(s)-1]
	return metrics.Calibrated{
		Test: "F8", System: systemVPCLab, What: "lateness of a 1 kHz timer", Set: fmt.Sprintf("links of %v and more", shortest), N: len(s),
		Measured: fmt.Sprintf("%.0f us median, %.0f us p99, %.0f us max", p50, p99, worst),
		Error:    p99, Bar: float64(shortest.Microseconds()) / 10, Unit: "us, p99",
		Values: map[string]float64{"median_us": p50, "p99_us": p99, "max_us": worst, "shortest_link_ms": p99 / 100},
	}.Judge()
}

// LoadVerb is the hidden verb that computes in a node and says what it got of
// the CPU.
const LoadVerb = "calibrate-load"

// loadReport is what it says.
type loadReport struct {
	CPU  time.Duration `json:"cpu_ns"`  // that it got
	Wall time.Duration `json:"wall_ns"` // of this time
}

// Load computes from the moment that a line on in names, in ns of
// CLOCK_MONOTONIC, for as long as the line then says, and reports to out.
func Load(in io.Reader, out io.Writer) error {
	var when struct{ From, Long int64 }
	if err := json.NewDecoder(in).Decode(&when); err != nil {
		return fmt.Errorf("when to compute: %w", err)
	}
	at := unix.NsecToTimespec(when.From)
	if err := unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &at, nil); err != nil && !errors.Is(err, unix.EINTR) {
		return os.NewSyscallError("clock_nanosleep", err)
	}
	before, err := cpuTime()
	if err != nil {
		return err
	}
	began, x := event.Now(), uint64(1)
	for event.Now().Sub(began) < time.Duration(when.Long) {
		for range 1 << 14 { // some 10 us
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
		}
	}
	after, err := cpuTime()
	if err != nil {
		return err
	}
	_ = x // it was computed for the time it takes
	return json.NewEncoder(out).Encode(loadReport{CPU: after - before, Wall: event.Now().Sub(began)})
}

// cpuTime of this process.
func cpuTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		return 0, os.NewSyscallError("clock_gettime", err)
	}
	return time.Duration(ts.Nano()), nil
}

// shares has two nodes compute at the same time, more processes than CPUs have
// to share.
func (r *run) shares(ctx context.Context) (metrics.Calibrated, error) {
	long := 3 * time.Second
	if r.Quick {
		long = time.Second
	}
	cpus := runtime.NumCPU()
	out := metrics.Calibrated{Test: "F8", System: systemVPCLab, What: "shares of the CPU", Set: fmt.Sprintf("%d computing on %d", 2*cpus, cpus), N: 2 * cpus, Bar: shareBar, Unit: "percentage points"}
	var loads []*load
	defer func() {
		for _, l := range loads {
			l.end()
		}
	}()
	for i := range 2 * cpus {
		l, err := r.startLoad(ctx, []string{busyNode(0), idleNode(0)}[i%2])
		if err != nil {
			return out, err
		}
		loads = append(loads, l)
	}
	from := event.Now() + event.Mono(50*time.Millisecond)
	for _, l := range loads {
		if _, err := fmt.Fprintf(l.in, `{"From":%d,"Long":%d}`+"\n", int64(from), int64(long)); err != nil {
			return out, fmt.Errorf("tell a load when to compute: %w", err)
		}
	}
	var got []float64
	sum := 0.0
	for _, l := range loads {
		rep, err := l.report()
		if err != nil {
			return out, err
		}
		got = append(got, float64(rep.CPU)/float64(rep.Wall)*100)
		sum += got[len(got)-1]
	}
	fair := sum / float64(len(got))
	for _, g := range got {
		out.Error = max(out.Error, g-fair, fair-g)
	}
	s := sorted(got)
	out.Measured = fmt.Sprintf("%.1f to %.1f%% each, %.1f%% of %d CPU in all", s[0], s[len(s)-1], sum, cpus)
	out.Values = map[string]float64{"least_percent": s[0], "most_percent": s[len(s)-1], "all_percent": sum}
	return out.Judge(), nil
}

// load is a process that computes.
type load struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	said *bufio.Reader
	done bool
}

func (r *run) startLoad(ctx context.Context, node string) (*load, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", LoadVerb)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	said, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := r.lab.Fabric().Start(node, cmd); err != nil {
		return nil, fmt.Errorf("start a load in %s: %w", node, err)
	}
	return &load{cmd: cmd, in: in, said: bufio.NewReader(said)}, nil
}

func (l *load) report() (rep loadReport, err error) {
	if err = json.NewDecoder(l.said).Decode(&rep); err != nil {
		return rep, fmt.Errorf("what a load got: %w", err)
	}
	l.done = true
	return rep, nil
}

// end waits for the process, which has nothing to do any more.
func (l *load) end() {
	l.in.Close()
	if !l.done {
		_ = l.cmd.Process.Kill()
	}
	_ = l.cmd.Wait() // what it had to say was read
}
