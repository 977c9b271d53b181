package hypervisor

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// standBack has this process served after those of the cloud manager and the
// routers when they wake. In a real cloud each of them has a processor of its own;
// on the one of a lab kernel an agent that hashes would make a VM stand longer,
// because its port is moved late.
func standBack() {
	const later = 5
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, tid, later)
		}
	}
}
