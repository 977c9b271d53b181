package kernel

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/stock"
)

// A stock kernel knows neither its disks nor its console by itself: their
// drivers are modules. So process 1 of a machine in QEMU has a first stage, in
// the initial file system, that loads them, makes the host's root folder its own
// and opens the control channel. It goes on as the same process: its program
// stays in memory, and who starts it again need not fetch it from the host.

// stageRoot is where the host's root folder is mounted at first.
const stageRoot = "/root"

// 9p sends that much in one message, in bytes: less than the 500 KiB that the
// kernel's transport can map at once.
const shareMessage = "msize=507904"

const (
	// The host's root is read only, and read again and again: what was read is
	// kept. Changes that the host makes to it meanwhile may be seen late, or not.
	rootOptions = "trans=virtio,version=9p2000.L," + shareMessage + ",cache=loose"
	// What is written goes to the host at once, as does each rename; nothing is
	// kept but what is mapped.
	shareOptions = "trans=virtio,version=9p2000.L," + shareMessage + ",cache=mmap"
)

// openPort is the first stage; it returns the control channel, and the modules
// that did not load.
func openPort() (port io.ReadWriteCloser, without []string, err error) {
	if err := mountNew("devtmpfs", "/dev"); err != nil {
		return nil, nil, err
	}
	watch, err := watchFolder("/dev") // before the driver is there, so that no port comes unseen
	if err != nil {
		return nil, nil, err
	}
	defer watch.Close()
	if without, err = loadStage(); err != nil {
		return nil, nil, err
	}
	if port, err = awaitPort(watch); err != nil {
		return nil, nil, err
	}
	if err := switchRoot(); err != nil {
		port.Close()
		return nil, nil, err
	}
	return port, without, nil
}

// mountNew mounts a file system of the kernel's own, making the folder.
func mountNew(fstype, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(fstype, dir, fstype, unix.MS_NOSUID, ""); err != nil {
		return fmt.Errorf("mount %s on %s: %w", fstype, dir, err)
	}
	return nil
}

// loadStage loads the modules of the initial file system.
func loadStage() (without []string, err error) {
	data, err := os.ReadFile(stageOrder)
	if err != nil {
		return nil, fmt.Errorf("first modules: %w", err)
	}
	var files []stock.Module
	if err := json.Unmarshal(data, &files); err != nil {
		return nil, fmt.Errorf("first modules: %w", err)
	}
	return loadModules(files)
}

// watchFolder tells by its file when something is made in the folder.
func watchFolder(dir string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_CREATE|unix.IN_ATTRIB); err != nil {
		f.Close()
		return nil, fmt.Errorf("watch %s: %w", dir, err)
	}
	return f, nil
}

// The first port of the first virtio console; number 0 is for terminals.
const portPath = "/dev/vport0p1"

// portLimit is how long the port may take to come, once its driver is there: it
// asks QEMU what ports there are.
const portLimit = 20 * time.Second

// awaitPort waits for the control channel's port and opens it, not blocking so
// that Go's poller waits for it.
func awaitPort(watch *os.File) (io.ReadWriteCloser, error) {
	if err := watch.SetReadDeadline(time.Now().Add(portLimit)); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096)
	for {
		fd, err := unix.Open(portPath, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), portPath), nil
		}
		if !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("control channel %s: %w", portPath, err)
		}
		if _, err := watch.Read(buf); err != nil {
			return nil, fmt.Errorf("control channel: %s did not come in %v: %w", portPath, portLimit, err)
		}
	}
}

// switchRoot makes the host's root folder this process's.
func switchRoot() error {
	if err := os.MkdirAll(stageRoot, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(rootTag, stageRoot, "9p", unix.MS_RDONLY, rootOptions); err != nil {
		return fmt.Errorf("mount the host's root folder by 9p: %w", err)
	}
	if err := unix.Mount("/dev", stageRoot+"/dev", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move /dev: %w", err)
	}
	if err := os.RemoveAll(stageModules); err != nil {
		return err
	}
	if err := unix.Chdir(stageRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the host's root folder to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return unix.Chdir("/")
}
