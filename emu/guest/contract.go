package guest

import (
	"context"
	"sync/atomic"

	"github.com/vpclab/vpclab/emu/event"
)

// PageSize is that of a guest's memory, and the block size of its disk.
const PageSize = 4096

// Bitmap has a bit for each page or block. It lies in shared memory: the guest
// sets bits while a hypervisor takes them, so all access is atomic.
type Bitmap []atomic.Uint64

// Spec is what a VM is, as the scenario file has it.
type Spec struct {
	Name string
	// Kind is KindProcess or KindQEMU; "" is KindProcess. A QEMU guest's Memory
	// is all of its RAM; its kernel and its program take a part of it, and the
	// workload has the rest (see package vmm).
	Kind string
	// Image and Kernel are a disk image and a kernel of the user's own for a QEMU
	// guest, which then has no workload of ours; "": ours.
	Image, Kernel string
	Memory        int64  // bytes, a multiple of PageSize
	Work          int64  // of a QEMU guest's memory, what the workload has; 0: all
	Disk          int64  // bytes, a multiple of PageSize; 0: none
	Workload      string // tpcw, kernelbuild, specjbb, mmuncher, idle, trace
	// Scale is by what the published workload of 1 GiB is made smaller:
	// Memory / 1 GiB where the file says nothing. Hot sets and caches shrink
	// with it; dirty rates in bytes a second stay.
	Scale float64
	Seed  uint64
	Port  int    // where clients are served, TCP
	Trace string // workload trace: the file
}

// Kinds of guests.
const (
	KindProcess = "process"
	KindQEMU    = "qemu"
)

// Control is how a hypervisor's agent steers a guest; a client of the guest
// process's control socket implements it. Calls are safe to repeat.
type Control interface {
	// Pause stops the guest between two steps of its work: until Resume or
	// Adopt it changes no byte of memory or disk and answers no client. at is
	// when the last step ended; state is what the virtual CPUs and devices
	// hold: what a successor needs besides memory and disk.
	Pause(ctx context.Context) (at event.Mono, state []byte, err error)
	// Checkpoint is Pause with a state that a standby, which is another process
	// and has another kernel, can go on from: with connections it holds the
	// clients' TCP connections too, as they are at this moment, of both the
	// kernel and the program. Whoever holds what the guest sends (package plug)
	// begins the next epoch before this call. In time it is one pause and one
	// exchange with the guest.
	Checkpoint(ctx context.Context, connections bool) (at event.Mono, state []byte, err error)
	// Resume lets a paused guest go on where it is.
	Resume(ctx context.Context) (at event.Mono, err error)
	// Prepare maps the memory in folder ahead of Adopt, so that mapping it
	// costs no time while the guest stands.
	Prepare(ctx context.Context, folder string, opt AdoptOptions) error
	// Adopt lets a paused guest go on with the memory and disk in folder, and
	// state. It never touches its former memory and disk again. A standby takes
	// only states of Checkpoint, and the connections in them: these are there when
	// it returns, so that the VM's port can be brought up, and rest until Resend.
	Adopt(ctx context.Context, folder string, state []byte, opt AdoptOptions) (at event.Mono, err error)
	// Boot lets a standby begin as a VM does that is switched on, on the disk in
	// folder and with the memory there, whatever it holds.
	Boot(ctx context.Context, folder string) (at event.Mono, err error)
	// Resend has the connections that Adopt restored speak, now that the VM's
	// port is up: what their peers have not acknowledged is sent again at once,
	// and their clients are served.
	Resend(ctx context.Context) error
	// Mirror has each write to the disk reported to the socket at path, and
	// counted as done only when that has acknowledged it; "" ends that. When
	// the socket closes the guest goes on without it: what was not
	// acknowledged is in the disk's bitmap.
	Mirror(ctx context.Context, path string) error
	// Status tells what it does now.
	Status(ctx context.Context) (Status, error)
}

// AdoptOptions say how a memory is taken over.
type AdoptOptions struct {
	// Missing names a socket that is sent the userfaultfd descriptor of the
	// new memory (SCM_RIGHTS): pages that are not there yet are asked for
	// there. "": all are there.
	Missing string
	// Boot prepares a standby for Boot: the memory is filled ahead as at any
	// start. It is for a memory that nobody else writes.
	Boot bool
	// NetNS is where the namespace of the host is mounted that has the folder: a
	// QEMU of the VM runs in it. Process guests have no use for it.
	NetNS string
	// Incoming has a QEMU wait in Prepare for a stream of QEMU's own, which the
	// agent starts by the monitor in folder; Adopt then takes no state.
	Incoming bool
}

// Status is a guest's own word on itself.
type Status struct {
	Folder  string // of the memory and disk that it runs on; "": a standby, which has none
	Running bool
	Steps   uint64 // of its workload
	Acked   uint64 // transactions that clients were told are done
	Fault   string // what it found wrong with its own memory or disk, if anything
	Clients int    // connections of clients
	Dropped int    // connections of a checkpoint that could not be restored
	Late    uint64 // steps that were due and left out: only a QEMU guest leaves any out, whose processor is too slow
}

// Verification is what a QEMU guest found when it compared all that it has with
// what it wrote. Process guests are verified from outside.
type Verification struct {
	Pages  int    // of memory that were compared
	Blocks int    // of the disk, likewise: those that the server wrote
	Bad    int    // of both, that differ
	First  string // what is wrong with the first of them
}
