package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/qmp"
	"github.com/vpclab/vpclab/emu/vmm"
)

// monitor is where this host's QEMU of the VM listens for agents.
func (v *vm) monitor() string { return filepath.Join(v.folder(), vmm.MonitorFile) }

// gone waits until no QEMU of the VM is left at this host, as its keeper has ended
// and it ends with that: one that is slow to would have the VM's memory and network
// card when the next one wants them.
func (v *vm) gone(ctx context.Context) error {
	conn, err := net.Dial("unix", v.monitor())
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil // there is none
	}
	if err != nil {
		return fmt.Errorf("VM %s: look for its QEMU: %w", v.name, err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	for b := make([]byte, 4096); ; {
		if _, err := conn.Read(b); err == nil {
			continue // its greeting
		}
		if ctx.Err() != nil {
			return fmt.Errorf("VM %s: wait for the end of the QEMU whose monitor is %s: %w", v.name, v.monitor(), context.Cause(ctx))
		}
		return nil
	}
}

// sweep ends QEMUs that wait at other hosts for this VM, which runs here: the agent
// that had one wait may have been killed. It is no error where that fails: the next
// migration to there does it too.
func (v *vm) sweep(ctx context.Context) {
	monitors, err := filepath.Glob(filepath.Join(v.agent.dir, "hosts", "*", v.name, vmm.MonitorFile))
	if err != nil {
		return
	}
	for _, path := range monitors {
		if path != v.monitor() {
			endIfWaiting(ctx, path)
		}
	}
}

// sweepIn is how long a QEMU may take to say what it does.
const sweepIn = 2 * time.Second

// endIfWaiting ends the QEMU with a monitor if it waits for a VM to come.
func endIfWaiting(ctx context.Context, path string) {
	ctx, cancel := context.WithTimeoutCause(ctx, sweepIn, fmt.Errorf("waited %v for the QEMU whose monitor is %s", sweepIn, path))
	defer cancel()
	monitor, err := qmp.Dial(ctx, path)
	if err != nil {
		return // it has ended
	}
	defer monitor.Close()
	var s struct{ Status string }
	if err := monitor.Execute(ctx, "query-status", nil, &s); err == nil && s.Status == "inmigrate" {
		_ = monitor.Execute(ctx, "quit", nil, nil) // it may end before it answers
	}
}
