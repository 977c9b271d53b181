package migrate

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/migrate/codec"
)

// Pause is how long the VM stood, by its own clock.
func (r *Report) Pause() time.Duration { return r.ResumedAt.Sub(r.PausedAt) }

// Total is the time of the memory phase: until the VM runs at the target and
// nothing is missing there.
func (r *Report) Total() time.Duration { return r.Done.Sub(r.Began) }

// uses joins what encoder and decoder say of themselves.
func uses(source, target []codec.Use) []EncoderUse {
	var out []EncoderUse
	at := map[string]int{}
	for _, u := range source {
		at[u.Name] = len(out)
		out = append(out, EncoderUse{Name: u.Name, Units: u.Units, In: u.In, Out: u.Out, CPU: u.CPU, False: u.False})
	}
	for _, u := range target {
		if i, ok := at[u.Name]; ok {
			out[i].CPU += u.CPU
		} else {
			out = append(out, EncoderUse{Name: u.Name, CPU: u.CPU})
		}
	}
	return out
}

// cpu is the processor time that this process has used, all its threads.
func cpu() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u) // cannot fail for oneself
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
