package vmm

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/qmp"
	"github.com/vpclab/vpclab/emu/stock"
)

// An image of the user's is what a VM's disk holds when the VM is switched on for
// the first time: it is copied there, and never written. So such a VM's disk moves,
// and is replicated, as any other does; had each QEMU the image open beneath a
// layer of its own, what the VM wrote would stay behind.

// fillingFile is in a host's folder while a disk is being filled: one that was
// begun only is filled anew.
const fillingFile = "disk.filling"

// imageLimit bounds the copying of an image.
const imageLimit = 10 * time.Minute

// fillFromImage copies the image onto the disk in folder, unless the disk has been
// used.
func fillFromImage(ctx context.Context, by *fabric.Starter, q *stock.QEMU, folder string, s guest.Spec) error {
	fail := func(err error) error { return fmt.Errorf("copy image %s onto the VM's disk: %w", s.Image, err) }
	if s.Disk == 0 {
		return fail(errors.New("it has none: give the VM a disk of at least the image's size"))
	}
	kind, size, err := imageOf(s.Image)
	if err != nil {
		return fail(err)
	}
	if size > s.Disk {
		return fail(fmt.Errorf("the image is of a disk of %d bytes, and the VM's has %d", size, s.Disk))
	}
	disk, mark := filepath.Join(folder, guest.DiskFile), filepath.Join(folder, fillingFile)
	used, err := hasData(disk)
	if err != nil {
		return fail(err)
	}
	if _, err := os.Stat(mark); used && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := os.WriteFile(mark, nil, 0o600); err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, imageLimit, fmt.Errorf("it took more than %v", imageLimit))
	defer cancel()
	if kind == "raw" {
		err = copySparse(ctx, disk, s.Image)
	} else {
		err = unpackImage(ctx, by, q, disk, s.Image, kind, size)
	}
	if err == nil {
		err = os.Remove(mark)
	}
	if err != nil {
		return fail(err)
	}
	return nil
}

// qcow2 is how an image of that format begins, and where in its head the size of
// the disk stands (QEMU's docs/interop/qcow2.txt).
const (
	qcow2Magic  = "QFI\xfb"
	qcow2SizeAt = 24
)

// imageOf tells an image's format, by QEMU's names, and the size of the disk that
// it is of.
func imageOf(path string) (kind string, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	var head [qcow2SizeAt + 8]byte
	n, err := io.ReadFull(f, head[:])
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", 0, err
	}
	if n == len(head) && string(head[:len(qcow2Magic)]) == qcow2Magic {
		size = int64(binary.BigEndian.Uint64(head[qcow2SizeAt:]))
		if size <= 0 {
			return "", 0, fmt.Errorf("it says that it is of a disk of %d bytes", size)
		}
		return "qcow2", size, nil
	}
	st, err := f.Stat()
	if err != nil {
		return "", 0, err
	}
	if st.Size() == 0 || st.Size()%512 != 0 {
		return "", 0, fmt.Errorf("%d bytes are no raw image of a disk, and it is none of format qcow2", st.Size())
	}
	return "raw", st.Size(), nil
}

// hasData tells whether anything was ever written to a sparse file.
func hasData(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = unix.Seek(int(f.Fd()), 0, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return false, nil
	}
	return err == nil, err
}

// copySparse copies what is not a hole of one file into another.
func copySparse(ctx context.Context, to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	b := make([]byte, 1<<20)
	for at := int64(0); ctx.Err() == nil; {
		data, err := unix.Seek(int(in.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) { // none any more
			return out.Close()
		}
		if err != nil {
			return err
		}
		n, err := in.ReadAt(b, data)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if _, err := out.WriteAt(b[:n], data); err != nil {
			return err
		}
		at = data + int64(n)
	}
	return context.Cause(ctx)
}

// unpackImage has QEMU, which knows the format, copy an image; nothing runs in it.
func unpackImage(ctx context.Context, by *fabric.Starter, q *stock.QEMU, to, from, kind string, size int64) error {
	ours, theirs, err := child.Channel("monitor")
	if err != nil {
		return err
	}
	defer ours.Close()
	var words child.Tail
	node := func(v map[string]any) string {
		b, _ := json.Marshal(v) // of words and numbers: cannot fail
		return string(b)
	}
	const first = 3 // exec.Cmd.ExtraFiles
	cmd := exec.CommandContext(ctx, q.Path, append(q.Firmware(), "-M", "none", "-nodefaults", "-no-user-config", "-display", "none", "-S",
		"-chardev", fmt.Sprintf("socket,id=keeper,fd=%d", first), "-mon", "chardev=keeper,mode=control",
		"-blockdev", node(map[string]any{"node-name": "image", "driver": kind, "read-only": true, "file": map[string]any{"driver": "file", "filename": from}}),
		"-blockdev", node(map[string]any{"node-name": "disk", "driver": "raw", "size": size, "discard": "unmap", "detect-zeroes": "unmap",
			"file": map[string]any{"driver": "file", "filename": to, "locking": "off"}}))...)
	cmd.Env, cmd.Stderr, cmd.ExtraFiles = q.Env(), &words, []*os.File{theirs}
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	err = by.Start("", cmd)
	theirs.Close()
	if err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if err := backup(ctx, ours); err != nil {
		return fmt.Errorf("%w; QEMU said: %s", err, words.String())
	}
	return nil
}

// backup has QEMU copy node image to node disk, and waits.
func backup(ctx context.Context, conn net.Conn) error {
	monitor, err := qmp.New(ctx, conn.(*net.UnixConn), "of QEMU that copies an image")
	if err != nil {
		return err
	}
	defer monitor.Close()
	const job = "fill"
	done := monitor.Subscribe("BLOCK_JOB_COMPLETED")
	defer done.Close()
	if err := monitor.Execute(ctx, "blockdev-backup", map[string]any{"job-id": job, "device": "image", "target": "disk", "sync": "full"}, nil); err != nil {
		return err
	}
	e, err := done.Next(ctx)
	if err != nil {
		return err
	}
	var end struct {
		Error string `json:"error"`
	}
	if err := e.Decode(&end); err != nil {
		return err
	}
	if end.Error != "" {
		return errors.New(end.Error)
	}
	return monitor.Execute(ctx, "quit", nil, nil)
}
