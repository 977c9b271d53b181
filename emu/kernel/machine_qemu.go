package kernel

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/vpclab/vpclab/emu/stock"
)

// qemuMachine is the outside of a machine in QEMU: a stock kernel, an initial
// file system with our own program, and three kinds of devices.
//
//	virtio console port ── the control channel ── file 3, a socket
//	virtio 9p "root"    ── the host's files, read-only
//	virtio 9p "share0"… ── folders that the inside may write
//
// Its time is real time; for a machine with time of its own see box.go.
type qemuMachine struct {
	qemu  *stock.QEMU
	image *stock.Image
	accel accelerator
	boot  string // what QEMU loads: the image, or the kernel that was packed in it
	// Rate of the host's time stamp counter, which is the machine's with TCG; 0:
	// the machine has another clock. See tsc.go.
	tscKHz int64
}

// accelerator is what carries out the machine's instructions.
type accelerator string

const (
	accelKVM accelerator = "kvm" // the processor itself
	accelTCG accelerator = "tcg" // QEMU, by translating them
)

// startQEMU boots a stock kernel in QEMU.
func startQEMU(ctx context.Context, cfg Config) (*Machine, error) {
	q, err := findQEMU(ctx)
	if err != nil {
		return nil, err
	}
	image, err := findImage()
	if err != nil {
		return nil, err
	}
	m := &qemuMachine{qemu: q, image: image, boot: image.Loadable(ctx)}
	m.accel, _ = m.chooseAccelerator(ctx, cfg)
	return startBooted(ctx, cfg, m)
}

func (m *qemuMachine) String() string {
	return fmt.Sprintf("Linux %s in QEMU (%s)", m.image.Release, m.accel)
}

func (m *qemuMachine) lack(missing string) error {
	return &Unusable{Substrate: QEMU, Missing: m.qemu.Path + ": " + missing, Fix: stock.QEMUFix}
}

// least has room for the initial file system, twice while it is unpacked.
func (m *qemuMachine) least() int64 { return 256 << 20 }

func (m *qemuMachine) file() string { return m.image.Path }

// patience is for a busy machine without KVM, where the kernel may have to unpack
// itself, too.
func (m *qemuMachine) patience() time.Duration { return 3 * bootLimit }

func (m *qemuMachine) folder() string { return m.image.Modules }

func (m *qemuMachine) plan() (files []stock.Module, without []string, err error) {
	return planImage(m.image, qemuModules...)
}

// Names in the initial file system.
const (
	stageProgram = "/init"
	stageModules = "/modules"      // a folder of module files
	stageOrder   = "/modules.json" // moduleFiles, in the order of loading
)

// initrdName is the initial file system in the scratch folder.
const initrdName = "initrd"

func (m *qemuMachine) command(cfg Config, s *scratch, program string, o *orders) (w wardenOrders, err error) {
	if err := static(program); err != nil {
		return w, err
	}
	if len(o.Writable) > maxShares {
		return w, fmt.Errorf("%d writable folders are more than the %d that this machine has room for", len(o.Writable), maxShares)
	}
	var meter *stock.TSCMeter
	if m.accel == accelTCG {
		meter = stock.StartTSC()
	}
	path := filepath.Join(s.dir, initrdName)
	if o.Modules, err = m.writeInitrd(path, program, o.Modules); err != nil {
		return w, err
	}
	m.tscKHz = meter.KiloHertz()
	return wardenOrders{
		Argv:   append([]string{m.qemu.Path}, m.arguments(path, cfg.Memory, o.Writable)...),
		Env:    m.qemu.Env(),
		Single: true,
	}, nil
}

// writeInitrd packs our program and the modules: some of them it takes to reach
// all else, and none has to be fetched from the host then. It returns those that
// are not there to be packed.
func (m *qemuMachine) writeInitrd(path, program string, modules []stock.Module) (missing []stock.Module, err error) {
	a := stock.NewInitrd()
	a.CharDevice("/dev/console", 0o600, 5, 1)
	a.Copy(stageProgram, 0o755, program)
	var packed []stock.Module
	for _, f := range modules {
		data, err := os.ReadFile(f.Path)
		if err != nil {
			missing = append(missing, f)
			continue
		}
		f.Path = filepath.Join(stageModules, f.Name+".ko")
		a.File(f.Path, 0o644, stock.Unsigned(data))
		packed = append(packed, f)
	}
	list, err := json.Marshal(packed)
	if err != nil {
		return nil, err
	}
	a.File(stageOrder, 0o644, list)
	return missing, a.Save(path)
}

// booted removes the initial file system: the machine has it in its memory.
func (m *qemuMachine) booted(s *scratch) { os.Remove(filepath.Join(s.dir, initrdName)) }

func (m *qemuMachine) channel(conn io.ReadWriteCloser, _ *scratch) (io.ReadWriteCloser, error) {
	return conn, nil
}

// maxShares is how many writable folders find a place on the machine's bus.
const maxShares = 20

// shareTag names the n-th writable folder.
func shareTag(n int) string { return "share" + strconv.Itoa(n) }

// rootTag names the host's root folder.
const rootTag = "root"

// arguments make QEMU's command line.
func (m *qemuMachine) arguments(initrd string, memory int64, writable []string) []string {
	machine := "pc"
	if m.tscKHz != 0 || m.accel == accelKVM {
		machine += ",hpet=off"
	}
	args := []string{
		"-M", machine, "-m", strconv.FormatInt(memory>>20, 10) + "M",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", m.boot, "-initrd", initrd, "-append", m.kernelLine(),
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", fmt.Sprintf("socket,id=channel,fd=%d", wardenChannel),
		"-device", "virtio-serial-pci", "-device", "virtserialport,chardev=channel,name=vpclab",
	}
	args = append(args, m.qemu.Firmware()...)
	if m.accel == accelKVM {
		args = append(args, "-accel", "kvm", "-cpu", "host", "-smp", strconv.Itoa(runtime.NumCPU()))
	} else {
		// Five levels of page tables are looked through for nothing.
		args = append(args, "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", "1")
	}
	args = append(args, share(rootTag, "/", true)...)
	for n, path := range writable {
		args = append(args, share(shareTag(n), path, false)...)
	}
	return args
}

// share offers a folder of the host's. Its users inside are all the same to the
// host: ours. Files of several file systems are below one folder, and QEMU
// keeps their numbers apart.
func share(tag, path string, readonly bool) []string {
	fsdev := "local,id=" + tag + ",path=" + strings.ReplaceAll(path, ",", ",,") + ",security_model=none,multidevs=remap"
	if readonly {
		fsdev += ",readonly=on"
	}
	return []string{"-fsdev", fsdev, "-device", "virtio-9p-pci,fsdev=" + tag + ",mount_tag=" + tag}
}

// qemuSkipped are parts of a stock kernel's start that cost a translated
// machine time and serve no lab.
var qemuSkipped = []string{"init_kprobe_trace", "crypto_kdf108_init"}

// kernelLine is the kernel's command line.
func (m *qemuMachine) kernelLine() string {
	words := []string{
		"console=ttyS0", "quiet", "printk.time=0", "panic=-1", // with -no-reboot: a panic ends QEMU
		"rdinit=" + stageProgram, envInit + "=" + string(QEMU),
		"initcall_blacklist=" + strings.Join(append(qemuSkipped, skippedInitcalls...), ","),
		"cryptomgr.notests", "lsm=", "audit=0", "random.trust_cpu=on",
		"ipv6.disable_ipv6=1", // it is built in: see moduleArgs
		"mitigations=off",     // who is inside is root anyway
	}
	if m.accel == accelTCG {
		// Interrupts by the older MP table: those of ACPI are programs, and take
		// long to be interpreted.
		words = append(words, "acpi=noirq", "no_timer_check", "lpj=10000000")
		if m.tscKHz != 0 {
			words = append(words, "tsc=reliable", fmt.Sprintf("tsc_early_khz=%d", m.tscKHz))
		} else {
			words = append(words, "tsc=unstable", "clocksource=hpet")
		}
	}
	return strings.Join(words, " ")
}
