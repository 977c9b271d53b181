package clock

import (
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// own installs the line, whatever kernel this is, and starts it anew.
func own(t *testing.T) {
	t.Helper()
	if !invariant() {
		t.Skip("the processor's time stamp counter is not invariant")
	}
	former := vdsoClockgettimeSym
	t.Cleanup(func() { vdsoClockgettimeSym = former })
	install()
}

// TestAgrees: what is read lies between what the kernel says before and after,
// but for what a system call takes.
func TestAgrees(t *testing.T) {
	own(t)
	for _, c := range []struct {
		name string
		id   uintptr
		read func() int64
	}{
		{"monotonic", unix.CLOCK_MONOTONIC, Mono},
		{"real time", unix.CLOCK_REALTIME, func() int64 { return time.Now().UnixNano() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			var behind, ahead []int64
			for end := Mono() + int64(time.Second); Mono() < end; {
				before := asked(c.id)
				got := c.read()
				after := asked(c.id)
				if after-before > int64(500*time.Microsecond) {
					continue // interrupted
				}
				if got < before {
					behind = append(behind, before-got)
				}
				if got > after {
					ahead = append(ahead, got-after)
				}
				time.Sleep(time.Millisecond)
			}
			for _, d := range behind {
				if d > int64(time.Millisecond) {
					t.Errorf("behind the kernel's clock by %v", time.Duration(d))
				}
			}
			for _, d := range ahead {
				if d > int64(200*time.Microsecond) {
					t.Errorf("ahead of the kernel's clock by %v", time.Duration(d))
				}
			}
		})
	}
}

// TestNeverBack: no thread sees time go backwards, nor two that talk to each other.
func TestNeverBack(t *testing.T) {
	own(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var last int64
	end := time.Now().Add(500 * time.Millisecond)
	for range 4 {
		wg.Go(func() {
			for time.Now().Before(end) {
				mu.Lock()
				now := Mono()
				if now < last {
					t.Errorf("%d ns after %d: back by %d", now, last, last-now)
				}
				last = now
				mu.Unlock()
			}
		})
	}
	wg.Wait()
}

// TestAsksSeldom: a busy reader makes few system calls.
func TestAsksSeldom(t *testing.T) {
	own(t)
	for end := Mono() + int64(200*time.Millisecond); Mono() < end; {
	}
	before := line.seq / 2
	for end := Mono() + int64(time.Second); Mono() < end; {
	}
	if n := line.seq/2 - before; n > 100 {
		t.Errorf("%d system calls in a second of reading: want about 10", n)
	}
}

func BenchmarkMono(b *testing.B) {
	for b.Loop() {
		Mono()
	}
}
