package fabric

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/fabric/direct"
)

// Starter starts processes from one thread, which ends with the program and not
// before: a process that asks to be killed when its parent ends (Pdeathsig) has
// that thread as its parent.
type Starter struct{ asks chan func() }

// NewStarter makes the thread.
func NewStarter() *Starter {
	s := &Starter{make(chan func())}
	go func() {
		runtime.LockOSThread()
		for do := range s.asks {
			do()
		}
	}()
	return s
}

// Start starts a process in the network namespace that is mounted at path; "": in
// this program's own.
func (s *Starter) Start(path string, cmd *exec.Cmd) error {
	done := make(chan error, 1)
	s.asks <- func() { done <- startHere(path, cmd) }
	return <-done
}

// startHere starts a process from this thread, which has no other work: where it
// was left does not matter to anybody.
func startHere(path string, cmd *exec.Cmd) error {
	if path == "" {
		path = fmt.Sprintf("/proc/%d/ns/net", os.Getpid()) // that of the first thread
	}
	ns, err := direct.Open(path, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", path, err)
	}
	defer direct.Close(ns)
	if err := direct.EnterNetwork(ns); err != nil {
		return fmt.Errorf("enter namespace %s: %w", path, err)
	}
	return cmd.Start()
}
