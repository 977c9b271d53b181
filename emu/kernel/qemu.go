package kernel

import (
	"context"
	"errors"
	"runtime"
	"slices"

	"github.com/vpclab/vpclab/emu/stock"
)

// findQEMU looks for the emulator. The error is an *Unusable where there is none.
func findQEMU(ctx context.Context) (*stock.QEMU, error) {
	q, err := stock.FindQEMU(ctx)
	return q, unusable(err)
}

// findImage looks for a kernel to boot in it; likewise.
func findImage() (*stock.Image, error) {
	image, err := stock.FindImage()
	return image, unusable(err)
}

// unusable makes an *Unusable of word that something is missing for QEMU.
func unusable(err error) error {
	var m *stock.Missing
	if errors.As(err, &m) {
		return &Unusable{Substrate: QEMU, Missing: m.What, Fix: m.Fix}
	}
	return err
}

// qemuModules are what a machine in QEMU needs beside a lab's own: its bus, its
// control channel and the host's files. crc32c is what libcrc32c asks for by
// a name that no module has, with nobody there who would resolve it.
var qemuModules = []string{"crc32c_generic", "virtio_pci", "virtio_console", "9pnet_virtio", "9p"}

// stockModules are parts of others' work that are modules of their own in a
// kernel where everything is one: nf_tables leaves it to one of them to read what
// a rule of a bridge asks about a frame.
var stockModules = []string{"nft_meta_bridge"}

// planImage lists the module files to load for a lab, those named first before
// them. Missing needed modules are an *Unusable; missing wanted ones are
// returned by name.
func planImage(image *stock.Image, first ...string) (files []stock.Module, without []string, err error) {
	need := slices.Concat(first, needModules)
	files, without, err = image.Plan(need, slices.Concat(wantModules, stockModules))
	return withArgs(files), without, unusable(err)
}

// qemuUsable looks for QEMU, a kernel image and its modules.
func qemuUsable(ctx context.Context) error {
	if runtime.GOARCH != "amd64" {
		return &Unusable{Substrate: QEMU, Missing: "vpclab runs inside as process 1, and this one is for " + runtime.GOARCH + ", not amd64", Fix: "use --kernel host on a kernel with MPLS"}
	}
	if _, err := findQEMU(ctx); err != nil {
		return err
	}
	image, err := findImage()
	if err != nil {
		return err
	}
	_, _, err = planImage(image, qemuModules...)
	return err
}

// static refuses a program that cannot be process 1 where no library is.
func static(program string) error {
	ok, err := stock.Static(program)
	if err == nil && !ok {
		err = &Unusable{Substrate: QEMU, Missing: "this vpclab needs shared libraries, and cannot be process 1 of a machine", Fix: "build it with CGO_ENABLED=0, as ./run.sh does"}
	}
	return err
}
