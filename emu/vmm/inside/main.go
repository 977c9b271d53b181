package inside

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/guest"
)

// diskPath is the VM's disk.
const diskPath = "/dev/vda"

// heapPercent lets the heap grow by less than Go's usual 100 %: the guest's memory
// is small, and what a collection leaves behind are pages that a migration sends.
const heapPercent = 25

// leastFree is what is left beside the workload's memory at least, for clients'
// connections and the program itself.
const leastFree = 8 << 20

// Main is the life of process 1 in a VM. It does not return.
func Main() {
	debug.SetGCPercent(heapPercent)
	err := run()
	fmt.Fprintf(os.Stderr, "vpclab guest: %v\n", err)
	powerOff()
}

// run is the process until something fails.
func run() error {
	began := time.Now()
	orders, err := parseOrders(os.Getenv(envOrders))
	if err != nil {
		return err
	}
	if err := mounts(); err != nil {
		return err
	}
	news, err := listenNews()
	if err != nil {
		return err
	}
	if err := loadModules(ModulesDir); err != nil {
		return err
	}
	if err := network(orders, news); err != nil {
		return err
	}
	device := ""
	if orders.Spec.Disk != 0 {
		device = diskPath
		if err := news.await(deviceLimit, "the disk "+diskPath, exists(diskPath)); err != nil {
			return err
		}
	}
	if free, err := available(); err == nil && free < orders.Spec.Work+leastFree {
		return fmt.Errorf("the workload's memory of %d MiB does not fit into this VM of %d MiB: beside its kernel there are %d MiB, and %d more are wanted",
			orders.Spec.Work>>20, orders.Spec.Memory>>20, free>>20, leastFree>>20)
	}
	loaded := time.Now()
	machine, err := guest.NewInside(orders.Spec, device)
	if err != nil {
		return err
	}
	p, err := openPort(news)
	if err != nil {
		return err
	}
	news.close()
	return machine.Run(context.Background(), func() {
		free, _ := available() // it is for a person to read
		fmt.Printf("vpclab guest %s: ready %.2f s after its kernel's start (%.2f s for modules, %.2f s to fill its memory); %d MiB are available\n",
			orders.Spec.Name, uptime(), loaded.Sub(began).Seconds(), time.Since(loaded).Seconds(), free>>20)
		go func() {
			fmt.Fprintf(os.Stderr, "vpclab guest: %v\n", p.serve(machine))
			powerOff()
		}()
	})
}

// powerOff ends the VM: by its power switch, or by a restart, which QEMU was told
// to take for an end.
func powerOff() {
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	os.Exit(1) // process 1 that exits is a panic, and so an end as well
}
