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
	prioritize(later)
}

// keepUp has this process served like a guest: one that has seats of protected
// VMs and is not served for a while loses them. Leases are for times in which a
// busy guest on the one processor of a lab kernel can keep all others waiting.
func keepUp() {
	const asGuests = -20
	prioritize(asGuests)
}

// prioritize sets the priority of all threads that there are; those to come
// inherit it.
func prioritize(nice int) {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return
	}
	for _, t := range tasks {
		if tid, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.Setpriority(unix.PRIO_PROCESS, tid, nice)
		}
	}
}
