package vmm

import (
	"fmt"
	"net"
	"strconv"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/emu/vmm/inside"
)

// accelerator is what carries out a VM's instructions.
type accelerator string

const (
	accelKVM accelerator = "kvm" // the processor itself
	accelTCG accelerator = "tcg" // QEMU, by translating them
)

// software is what a VM runs in, and what it boots.
type software struct {
	qemu  *stock.QEMU
	accel accelerator
	// pc has it be a PC with a firmware and PCI, as images of disks expect; else it
	// is QEMU's microvm, which starts in less time.
	pc bool
	// kernel is what is loaded, with initrd and the command line; "": the firmware
	// finds something on the disk.
	kernel, initrd, line string
	// steady says that the kernel knows the rate of its time stamp counter.
	steady bool
	// ours has process 1 of this project's in it, which answers at its port.
	ours bool
}

// way is how a QEMU begins.
type way string

const (
	switchedOn way = "switched on" // as a machine does
	withState  way = "with a state that it is given"
	withStream way = "with a stream of QEMU's own"
)

// layout is what one QEMU is told beside the software: numbers of open files, of
// which 0 is none, and where its memory is.
type layout struct {
	keeper, agents int // monitors
	port           int // of the process inside
	disk, tap      int
	mac            net.HardwareAddr
	mtu            int
	memory, offset int64 // bytes of guest.MemoryFile in QEMU's folder, from there on
	way            way
}

// ConsoleFile has what a VM's kernel and firmware say, in the folder of the host.
const ConsoleFile = "console.log"

// arguments make QEMU's command line. QEMU runs in the folder of the host: names of
// its files need no path.
func (s *software) arguments(spec guest.Spec, l layout) []string {
	args := append(s.qemu.Firmware(),
		"-name", "guest="+escape(spec.Name)+",debug-threads=on",
		// The description of the devices that QEMU would put behind their state is for
		// those who look at a file of it.
		"-M", s.machine()+",memory-backend=ram,suppress-vmdesc=on",
		"-m", fmt.Sprintf("%dB", l.memory), "-smp", "1",
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%d,mem-path=%s,offset=%d,share=on,prealloc=on", l.memory, guest.MemoryFile, l.offset),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-S",
		"-chardev", fmt.Sprintf("socket,id=keeper,fd=%d", l.keeper), "-mon", "chardev=keeper,mode=control",
		"-chardev", fmt.Sprintf("socket,id=agents,fd=%d,server=on,wait=off", l.agents), "-mon", "chardev=agents,mode=control",
		"-chardev", "file,id=console,path="+ConsoleFile, "-serial", "chardev:console",
	)
	switch s.accel {
	case accelKVM:
		args = append(args, "-accel", "kvm", "-cpu", "host")
	default:
		// Five levels of page tables are looked through for nothing.
		args = append(args, "-accel", "tcg", "-cpu", "max,la57=off")
	}
	if s.kernel != "" {
		args = append(args, "-kernel", s.kernel, "-append", s.line)
	}
	if s.initrd != "" {
		args = append(args, "-initrd", s.initrd)
	}
	args = append(args, s.devices(l)...)
	if l.way != switchedOn {
		args = append(args, "-incoming", "defer")
	}
	return args
}

func (s *software) machine() string {
	if s.pc {
		return "q35"
	}
	if s.steady {
		// The timer of old PCs, which nobody needs then, interrupts by a controller that
		// nobody has set up, as soon as interrupts are let through: most boots where
		// instructions are translated ended by it.
		return "microvm,rtc=on,pit=off,pic=off"
	}
	return "microvm,rtc=on"
}

// device is the name of a virtio device on the machine's bus.
func (s *software) device(kind string) string {
	if s.pc {
		return "virtio-" + kind + "-pci"
	}
	return "virtio-" + kind + "-device"
}

// devices are those that a VM has by what there is for it.
func (s *software) devices(l layout) (args []string) {
	if !s.pc {
		args = append(args, "-global", "virtio-mmio.ioeventfd=off") // see blkNotify
	}
	if l.disk != 0 {
		// The keeper's end serves whoever asks, and there is one to ask. What is
		// written is in the keeper's hands when it says so: nothing is cached here.
		args = append(args,
			"-blockdev", fmt.Sprintf("driver=nbd,node-name=disk,server.type=fd,server.str=%d", l.disk),
			"-device", s.device("blk")+",drive=disk,serial=vpclab"+blkNotify(s.pc))
	}
	if l.tap != 0 {
		net := s.device("net") + ",netdev=net,mac=" + l.mac.String() + ",host_mtu=" + strconv.Itoa(l.mtu)
		if s.pc {
			net += ",romfile=" // nobody boots from the network
		}
		args = append(args, "-netdev", fmt.Sprintf("tap,id=net,fd=%d,vhost=off", l.tap), "-device", net)
	}
	if l.port != 0 {
		args = append(args, "-device", s.device("serial")+",max_ports=2",
			"-chardev", fmt.Sprintf("socket,id=port,fd=%d", l.port), "-device", "virtserialport,chardev=port,name="+inside.PortName)
	}
	return args
}

// blkNotify has the disk's driver call QEMU without an event in between. With one QEMU
// waits, when a VM is to stand, for what is under way at the disk before it tells of
// the stop; and that may wait for the keeper, who answers it when the VM stands.
func blkNotify(pc bool) string {
	if pc {
		return ",ioeventfd=off"
	}
	return "" // by the bus
}

// escape is a value in an option of QEMU's.
func escape(s string) string {
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		if s[i] == ',' {
			b = append(b, ',')
		}
		b = append(b, s[i])
	}
	return string(b)
}
