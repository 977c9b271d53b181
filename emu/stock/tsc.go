package stock

import (
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/clock"
)

// A machine whose instructions are translated reads the host's time stamp
// counter as its own. Its kernel would find out the counter's rate by timers of
// the machine, in some 50 ms of its start: on a busy host, where it stands still
// now and then, it errs, and its clock then goes four times too fast for as long as
// it runs. So the rate is found out here, where a measurement that was disturbed
// can be told from one that was not, and given to the kernel.

// TSCMeter measures the rate of the counter from when it was made.
type TSCMeter struct{ from tscReading }

// tscReading is the counter at a time of CLOCK_MONOTONIC, in ns.
type tscReading struct {
	ticks uint64
	mono  int64
}

// tscLeast is how long a measurement takes at least. A reading is exact to less
// than a microsecond: an error of some 10^-5.
const tscLeast = 100 * time.Millisecond

// StartTSC begins a measurement; nil where the host itself does not trust its
// counter.
func StartTSC() *TSCMeter {
	if !steadyTSC() || timeStamp() == 0 {
		return nil
	}
	return &TSCMeter{readTSC()}
}

// steadyTSC tells whether this kernel takes the counter for a clock. User Mode Linux
// has no clock of its own and says nothing about it: there the processor's word has
// to do.
func steadyTSC() bool {
	const sources = "/sys/devices/system/clocksource/clocksource0/available_clocksource"
	if _, err := os.Stat("/proc/exitcode"); err == nil { // no other kernel has it
		return clock.Invariant()
	}
	known, err := os.ReadFile(sources)
	return err == nil && slices.Contains(strings.Fields(string(known)), "tsc")
}

// readTSC reads the counter and the clock together, several times, and gives the
// reading that was least disturbed.
func readTSC() tscReading {
	var best tscReading
	least := uint64(math.MaxUint64)
	for range 20 {
		before := timeStamp()
		var ts unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
		if took := timeStamp() - before; took < least {
			least, best = took, tscReading{before + took/2, ts.Nano()}
		}
	}
	return best
}

// KiloHertz ends the measurement.
func (m *TSCMeter) KiloHertz() int64 {
	if m == nil {
		return 0
	}
	if left := tscLeast - time.Duration(readTSC().mono-m.from.mono); left > 0 {
		time.Sleep(left) // it is the time that is measured
	}
	now := readTSC()
	return int64(math.Round(float64(now.ticks-m.from.ticks) * 1e6 / float64(now.mono-m.from.mono)))
}
