package migrate

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"github.com/vpclab/vpclab/emu/event"
)

const (
	// spareEvery is how often the processors are looked at: their accounts are in
	// hundredths of a second.
	spareEvery = 100 * time.Millisecond
	userHertz  = 100 // ticks a second of /proc/stat, on all that Linux runs on
)

// Spare tells how much processor time nobody uses. A sender that waits may wait
// for the link; where all share one processor it may as well wait for the
// target, the VM or the kernel's forwarding, and then time that it takes to
// compress is taken from what it waits for.
type Spare struct {
	file *os.File // /proc/stat; nil: not known
	buf  []byte
	at   event.Mono
	idle uint64 // ticks
	has  bool
	part float64 // processors that were idle, at most 1; smoothed
}

// NewSpare begins to look; Close ends it.
func NewSpare() *Spare {
	f, err := os.Open("/proc/stat")
	if err != nil {
		return &Spare{} // then it is as if there always were time
	}
	return &Spare{file: f, buf: make([]byte, 256)}
}

// Close ends it.
func (s *Spare) Close() {
	if s.file != nil {
		_ = s.file.Close() // it was only read
		s.file = nil
	}
}

// Share is what is known now: 1 is a processor's whole time.
func (s *Spare) Share(now event.Mono) float64 {
	if s.file != nil && (s.at == 0 || now.Sub(s.at) >= spareEvery) {
		s.look(now)
	}
	if !s.has {
		return 1
	}
	return s.part
}

func (s *Spare) look(now event.Mono) {
	n, _ := s.file.ReadAt(s.buf, 0) // shorter than asked for is an error
	idle, ok := idleTicks(s.buf[:n])
	if !ok {
		return
	}
	if s.at != 0 {
		part := min(1, float64(idle-s.idle)/userHertz/now.Sub(s.at).Seconds())
		if !s.has {
			s.part, s.has = part, true
		}
		s.part += (part - s.part) / 2
	}
	s.at, s.idle = now, idle
}

// idleTicks is the time that all processors had nothing to do or waited for a
// disk, from the first line of /proc/stat:
//
//	cpu  user nice system idle iowait …
func idleTicks(stat []byte) (uint64, bool) {
	line, _, _ := bytes.Cut(stat, []byte("\n"))
	f := bytes.Fields(line)
	if len(f) < 6 || string(f[0]) != "cpu" {
		return 0, false
	}
	idle, err1 := strconv.ParseUint(string(f[4]), 10, 64)
	wait, err2 := strconv.ParseUint(string(f[5]), 10, 64)
	return idle + wait, err1 == nil && err2 == nil
}
