package watch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
)

// The kernel's counters are read from files that stay open: opening one costs as
// much as reading it.
var counterFiles = []string{"/proc/uptime", "/proc/stat", "/proc/net/softnet_stat", "/proc/vmstat"}

// counters are what the kernel has counted since it booted.
type counters struct {
	up, idle  float64 // s; idle of all CPUs together
	steal     float64 // s of all CPUs together; 0 where the kernel cannot know
	processed uint64  // packets, by the receiving half of interfaces
	dropped   uint64  // of them, those for which its queue had no room
	reclaims  uint64  // times that a process had to free memory before it got any
	killed    uint64  // processes, for want of memory
}

// counterReader reads all of them.
type counterReader struct {
	files []*os.File
	buf   []byte
}

func openCounters() (*counterReader, error) {
	r := &counterReader{buf: make([]byte, 64<<10)}
	for _, name := range counterFiles {
		f, err := os.Open(name)
		if err != nil {
			r.close()
			return nil, fmt.Errorf("open the kernel's counters: %w", err)
		}
		r.files = append(r.files, f)
	}
	return r, nil
}

func (r *counterReader) close() {
	for _, f := range r.files {
		f.Close()
	}
}

func (r *counterReader) read() (c counters, err error) {
	for i, parse := range []func(*counters, string) error{(*counters).uptime, (*counters).stat, (*counters).softnet, (*counters).vmstat} {
		n, err := r.files[i].ReadAt(r.buf, 0)
		if err != nil && !errors.Is(err, io.EOF) {
			return c, fmt.Errorf("read the kernel's counters: %w", err)
		}
		if err := parse(&c, string(bytes.TrimSpace(r.buf[:n]))); err != nil {
			return c, fmt.Errorf("read the kernel's counters: %s: %w", counterFiles[i], err)
		}
	}
	return c, nil
}

// uptime: seconds since boot, and idle seconds of all CPUs. User Mode Linux
// counts no idle time in /proc/stat, and here it does.
func (c *counters) uptime(text string) (err error) {
	f := strings.Fields(text)
	if len(f) < 2 {
		return fmt.Errorf("%q has no two numbers", text)
	}
	if c.up, err = strconv.ParseFloat(f[0], 64); err != nil {
		return err
	}
	c.idle, err = strconv.ParseFloat(f[1], 64)
	return err
}

// userHZ is what /proc/stat counts in, of a second, whatever the kernel's tick.
const userHZ = 100

// stat: the eighth number of the line of all CPUs is what a hypervisor took.
func (c *counters) stat(text string) error {
	line, _, _ := strings.Cut(text, "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return fmt.Errorf("%q is no line of CPU times", line)
	}
	n, err := strconv.ParseUint(f[8], 10, 64)
	c.steal = float64(n) / userHZ
	return err
}

// softnet: a line a CPU, hexadecimal: processed, dropped …
func (c *counters) softnet(text string) error {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			return fmt.Errorf("%q has no two numbers", line)
		}
		for i, sum := range []*uint64{&c.processed, &c.dropped} {
			n, err := strconv.ParseUint(f[i], 16, 64)
			if err != nil {
				return err
			}
			*sum += n
		}
	}
	return nil
}

// vmstat: a line a counter.
func (c *counters) vmstat(text string) error {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		var sum *uint64
		switch {
		case strings.HasPrefix(name, "allocstall"): // one a zone
			sum = &c.reclaims
		case name == "oom_kill":
			sum = &c.killed
		default:
			continue
		}
		n, err := strconv.ParseUint(value, 10, 64)
		if err != nil {
			return err
		}
		*sum += n
	}
	return nil
}
