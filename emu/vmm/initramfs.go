package vmm

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/emu/vmm/inside"
)

// guestModules are the drivers of a VM's devices, on the bus of QEMU's microvm.
var guestModules = []string{"virtio_mmio", "virtio_net", "virtio_blk", "virtio_console"}

// Initramfs gives the initial file system of a VM with this kernel: our program
// and the drivers. It is the same for all VMs, which differ by their kernel's
// command line (see package inside), and is kept in folder: only the first VM of
// a lab waits for it. trace, where it is not empty, is a recording of workload
// trace; the file is that VM's alone then.
func Initramfs(folder string, image *stock.Image, trace string) (path string, err error) {
	program, err := Program()
	if err != nil {
		return "", err
	}
	files, err := driverFiles(image)
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	fmt.Fprintln(sum, inside.Protocol, image.Path, image.Release, len(program))
	sum.Write(program)
	if trace != "" {
		recording, err := os.ReadFile(trace)
		if err != nil {
			return "", err
		}
		sum.Write(recording)
	}
	path = filepath.Join(folder, "initramfs-"+hex.EncodeToString(sum.Sum(nil)[:6]))
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err
	}
	a := stock.NewInitrd()
	a.CharDevice("/dev/console", 0o600, 5, 1)
	a.File("/init", 0o755, program)
	for i, f := range files {
		module, err := os.ReadFile(f.Path)
		if err != nil {
			return "", err
		}
		// The order of names is that of loading.
		a.File(fmt.Sprintf("%s/%02d-%s.ko", inside.ModulesDir, i, f.Name), 0o644, stock.Unsigned(module))
	}
	if trace != "" {
		a.Copy(inside.TraceFile, 0o644, trace)
	}
	return path, a.Replace(path)
}

// driverFiles are the modules to load, in order.
func driverFiles(image *stock.Image) ([]stock.Module, error) {
	files, _, err := image.Plan(guestModules, nil)
	return files, err
}
