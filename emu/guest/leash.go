package guest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/event"
)

// LeashFile is the name of a leash in its host's folder.
const LeashFile = "leash"

// Leash is how long a guest may run: a page that it shares with its hypervisor,
// which moves the end on for as long as the VM is this host's. It is a watchdog,
// as servers have one in hardware: a hypervisor that hangs or has ended moves
// nothing, and the guest stands by itself. It costs neither of them a system
// call.
//
// A guest on a leash looks before each step and before each answer that it
// sends, and notes when that was.
type Leash struct {
	mapped     []byte
	until, ran *atomic.Int64 // event.Mono
}

// CreateLeash makes a leash of no length in folder, in the place of one that is
// there: a guest that still looks at that never runs again.
func CreateLeash(folder string) (*Leash, error) {
	path := filepath.Join(folder, LeashFile)
	if old, err := OpenLeash(folder); err == nil {
		old.Extend(0)
		if err := old.Close(); err != nil {
			return nil, err
		}
	}
	if err := os.WriteFile(path+".new", make([]byte, PageSize), 0o600); err != nil {
		return nil, fmt.Errorf("make leash %s: %w", path, err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return nil, fmt.Errorf("make leash %s: %w", path, err)
	}
	return OpenLeash(folder)
}

// OpenLeash maps the leash in folder.
func OpenLeash(folder string) (*Leash, error) {
	path := filepath.Join(folder, LeashFile)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open leash: %w", err)
	}
	defer f.Close()
	b, err := unix.Mmap(int(f.Fd()), 0, PageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map leash %s: %w", path, err)
	}
	return &Leash{b, (*atomic.Int64)(unsafe.Pointer(&b[0])), (*atomic.Int64)(unsafe.Pointer(&b[8]))}, nil
}

// Close unmaps it.
func (l *Leash) Close() error { return unix.Munmap(l.mapped) }

// End is the word that says how far it goes, for whoever moves it on all the time.
func (l *Leash) End() *atomic.Int64 { return l.until }

// Extend lets the guest run until then; 0: no more.
func (l *Leash) Extend(until event.Mono) { l.until.Store(int64(until)) }

// Ran is when the guest last began a step or an answer; 0: never.
func (l *Leash) Ran() event.Mono { return event.Mono(l.ran.Load()) }

// LeashLook is how often a guest at the end of its leash looks whether it may go
// on.
const LeashLook = 2 * time.Millisecond

// May tells whether the guest may run now, and notes that it does.
func (l *Leash) May(now event.Mono) bool {
	if int64(now) >= l.until.Load() {
		return false
	}
	l.ran.Store(int64(now))
	return true
}

// await waits until the guest may run, and notes that it does.
func (l *Leash) await(ctx context.Context) error {
	if l == nil {
		return nil
	}
	for !l.May(event.Now()) {
		timer := time.NewTimer(LeashLook)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
	return nil
}
