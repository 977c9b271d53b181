package guest

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// GoAhead has this process served before others when it wakes: a VM gets its
// processor, and hypervisors copy and encode in what is left. With three busy
// processes beside it on the one CPU of a lab kernel, a tenth of a guest's ticks
// come 14 ms late without this and 2.5 ms with it; a migration would then meet a
// guest that has not written for several rounds. Where it may not, it stands in
// line like everybody.
func GoAhead() {
	const mostUrgent = -20
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, tid, mostUrgent)
		}
	}
}
