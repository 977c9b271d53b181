package inside

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mounts makes the file systems that a kernel itself offers.
func mounts() error {
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s at %s: %w", m.kind, m.at, err)
		}
	}
	return nil
}

// loadModules loads the files in a folder by the order of their names, and
// removes them: the initial file system is memory.
func loadModules(folder string) error {
	files, err := os.ReadDir(folder) // sorted by name
	if err != nil {
		return fmt.Errorf("load modules: %w", err)
	}
	for _, f := range files {
		path := filepath.Join(folder, f.Name())
		if err := loadModule(path); err != nil {
			return fmt.Errorf("load module %s: %w", f.Name(), err)
		}
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

func loadModule(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}

// card is the name of the VM's only network card.
const card = "eth0"

// network gives the card its address, and brings it up. A VM may have none.
func network(o Orders, news *news) error {
	if !o.Address.IsValid() {
		return nil
	}
	if err := news.await(deviceLimit, "the network card "+card, exists("/sys/class/net/"+card)); err != nil {
		return err
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := up(s, "lo"); err != nil {
		return err
	}
	if o.MTU != 0 {
		err := request32(s, card, unix.SIOCSIFMTU, uint32(o.MTU))
		if err != nil {
			return fmt.Errorf("give %s an MTU of %d: %w", card, o.MTU, err)
		}
	}
	address, mask := o.Address.Addr().As4(), net.CIDRMask(o.Address.Bits(), 32)
	if err := requestAddress(s, card, unix.SIOCSIFADDR, address[:]); err != nil {
		return fmt.Errorf("give %s the address %s: %w", card, o.Address, err)
	}
	if err := requestAddress(s, card, unix.SIOCSIFNETMASK, mask); err != nil {
		return fmt.Errorf("give %s the mask of %s: %w", card, o.Address, err)
	}
	if err := up(s, card); err != nil {
		return err
	}
	if o.Gateway.IsValid() {
		if err := defaultRoute(s, o.Gateway); err != nil {
			return fmt.Errorf("add the default route by way of %s: %w", o.Gateway, err)
		}
	}
	return nil
}

func request32(s int, name string, what uint, value uint32) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint32(value)
	return unix.IoctlIfreq(s, what, r)
}

func requestAddress(s int, name string, what uint, address []byte) error {
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	if err := r.SetInet4Addr(address); err != nil {
		return err
	}
	return unix.IoctlIfreq(s, what, r)
}

func up(s int, name string) error {
	r, err := unix.NewIfreq(name)
	if err == nil {
		r.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		err = unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r)
	}
	if err != nil {
		return fmt.Errorf("bring %s up: %w", name, err)
	}
	return nil
}

// routeEntry is struct rtentry of 64-bit kernels (linux/route.h).
type routeEntry struct {
	_                 uint64
	dst, gateway, msk unix.RawSockaddrInet4
	flags             uint16
	_                 [6]byte
	_                 [64]byte
}

func defaultRoute(s int, gateway netip.Addr) error {
	r := routeEntry{flags: unix.RTF_UP | unix.RTF_GATEWAY}
	r.dst.Family, r.msk.Family = unix.AF_INET, unix.AF_INET
	r.gateway.Family, r.gateway.Addr = unix.AF_INET, gateway.As4()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCADDRT, uintptr(unsafe.Pointer(&r))); errno != 0 {
		return errno
	}
	return nil
}

// deviceLimit is how long a device may take to appear once its driver is there.
// Where instructions are translated on a busy machine, seconds are possible.
const deviceLimit = 30 * time.Second

// news tells when the kernel finds or changes a device.
type news struct{ fd int }

// listenNews subscribes to what the kernel tells udev.
func listenNews() (*news, error) {
	const kernelGroup = 1
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup})
	}
	if err != nil {
		return nil, fmt.Errorf("listen for devices: %w", err)
	}
	return &news{fd}, nil
}

func (n *news) close() { unix.Close(n.fd) }

// await waits until there says yes, and asks it whenever something has changed.
func (n *news) await(limit time.Duration, what string, there func() bool) error {
	var b [4 << 10]byte
	for end := time.Now().Add(limit); !there(); {
		left := unix.NsecToTimeval(time.Until(end).Microseconds() * 1000)
		if left.Nano() <= 0 { // which would mean for ever
			return fmt.Errorf("waited %v for %s: it did not appear", limit, what)
		}
		if err := unix.SetsockoptTimeval(n.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &left); err != nil {
			return err
		}
		_, _, err := unix.Recvfrom(n.fd, b[:], 0)
		// ENOBUFS: more has changed than fits. Whatever it was, there is asked.
		if err != nil && !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("wait for %s: %w", what, err)
		}
	}
	return nil
}

func exists(path string) func() bool {
	return func() bool {
		_, err := os.Stat(path)
		return err == nil
	}
}

// uptime is how long the kernel has been running, in seconds.
func uptime() float64 {
	var i unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &i) // cannot fail
	return float64(i.Nano()) / 1e9
}

// available is how many bytes of memory more could be used.
func available() (int64, error) {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if rest, ok := strings.CutPrefix(string(line), "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/meminfo does not tell what is available")
}
