package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// monitorFile is where a QEMU listens for agents, in the folder that its host has
// of the VM.
const monitorFile = "qmp"

// monitor is the one of this host's.
func (v *vm) monitor() string { return filepath.Join(v.folder(), monitorFile) }

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

// consoleWords bound what is told of a console.
const consoleWords = 800

// consoleTail is the end of what the VM has written on its console at this host.
func (v *vm) consoleTail() string {
	b, err := os.ReadFile(filepath.Join(v.folder(), "console.log"))
	if err != nil {
		return ""
	}
	if len(b) > consoleWords {
		b = b[len(b)-consoleWords:]
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), "?"))
}
