package hypervisor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vpclab/vpclab/emu/guest"
)

// volatile are the files of a VM at a host that stand for memory: those that are
// gone with the host's power.
var volatile = []string{guest.MemoryFile, guest.LeashFile, keptFile, "missing"}

// LosePower removes what a host has in its memory, the VMs' included; what is on
// its disk stays. dir is the lab's folder of VMs, and the host's agent and guests
// have ended.
func LosePower(dir, host string) error {
	var errs []error
	for _, name := range volatile {
		files, err := filepath.Glob(filepath.Join(dir, "hosts", host, "*", name))
		errs = append(errs, err)
		for _, f := range files {
			if err := os.Remove(f); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("host %s: lose what is in memory: %w", host, err))
			}
		}
	}
	return errors.Join(errs...)
}
