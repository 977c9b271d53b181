package stock

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Initrd is a file system that a kernel finds in its memory when it starts: a
// cpio archive of the format "newc" (the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst). What is in it
// depends on what was put in and on nothing else: no times, no owners, inode
// numbers by the order of names. Two archives of the same content are the same
// bytes, which a machine on virtual time needs.
type Initrd struct {
	entries map[string]initrdEntry // by path without the first slash
}

// initrdEntry is one file, folder, symbolic link or device. Its content is in
// data, or in the host's file from.
type initrdEntry struct {
	mode         uint32 // type and permissions, as in stat(2)
	data         []byte
	from         string
	major, minor uint32 // of a device
}

func NewInitrd() *Initrd { return &Initrd{entries: map[string]initrdEntry{}} }

// Folder adds a folder, and those that lead to it.
func (a *Initrd) Folder(name string, perm uint32) {
	a.add(name, initrdEntry{mode: unix.S_IFDIR | perm})
}

// File adds a file with the given content.
func (a *Initrd) File(name string, perm uint32, data []byte) {
	a.add(name, initrdEntry{mode: unix.S_IFREG | perm, data: data})
}

// Copy adds a file with the content of one of the host's, which is read when
// the archive is written.
func (a *Initrd) Copy(name string, perm uint32, from string) {
	a.add(name, initrdEntry{mode: unix.S_IFREG | perm, from: from})
}

// Symlink adds a symbolic link that leads to target.
func (a *Initrd) Symlink(name, target string) {
	a.add(name, initrdEntry{mode: unix.S_IFLNK | 0o777, data: []byte(target)})
}

// CharDevice adds a character device.
func (a *Initrd) CharDevice(name string, perm, major, minor uint32) {
	a.add(name, initrdEntry{mode: unix.S_IFCHR | perm, major: major, minor: minor})
}

// add puts an entry in its place, in the place of what had the name, and makes
// the folders above it that are not there.
func (a *Initrd) add(name string, e initrdEntry) {
	name = strings.Trim(path.Clean("/"+name), "/")
	a.entries[name] = e
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := a.entries[dir]; !ok {
			a.entries[dir] = initrdEntry{mode: unix.S_IFDIR | 0o755}
		}
	}
}

// Pack writes the archive. Entries are sorted by name, so that a folder
// comes before what is in it.
func (a *Initrd) Pack(w io.Writer) error {
	for i, name := range slices.Sorted(maps.Keys(a.entries)) {
		e := a.entries[name]
		if e.from != "" {
			data, err := os.ReadFile(e.from)
			if err != nil {
				return fmt.Errorf("initrd: /%s: %w", name, err)
			}
			e.data = data
		}
		if err := writeCpio(w, uint32(i+1), name, e); err != nil {
			return fmt.Errorf("initrd: /%s: %w", name, err)
		}
	}
	return writeCpio(w, 0, cpioTrailer, initrdEntry{})
}

// Save writes the archive into a new file.
func (a *Initrd) Save(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err = a.Pack(w); err == nil {
		err = w.Flush()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Replace writes the archive to path at once, whoever else may be reading or
// writing it.
func (a *Initrd) Replace(path string) error {
	var b bytes.Buffer
	if err := a.Pack(&b); err != nil {
		return err
	}
	return ReplaceFile(path, b.Bytes())
}

// cpioTrailer is the name of the entry that ends an archive.
const cpioTrailer = "TRAILER!!!"

// maxCpio is what the eight hexadecimal digits of a size can say.
const maxCpio = 1<<32 - 1

// writeCpio writes one entry: the header of thirteen numbers, its name ended
// by a zero, its content, each filled up to a multiple of four bytes.
func writeCpio(w io.Writer, inode uint32, name string, e initrdEntry) error {
	if uint64(len(e.data)) > maxCpio {
		return fmt.Errorf("%d bytes are more than a cpio archive can hold in a file", len(e.data))
	}
	const links, noTime, noDevice, noSum = 1, 0, 0, 0
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		inode, e.mode, 0, 0, links, noTime, len(e.data), noDevice, noDevice, e.major, e.minor, len(name)+1, noSum, name)
	if _, err := io.WriteString(w, head+cpioFill(len(head))); err != nil {
		return err
	}
	if _, err := w.Write(e.data); err != nil {
		return err
	}
	_, err := io.WriteString(w, cpioFill(len(e.data)))
	return err
}

// cpioFill is what follows n bytes up to a multiple of four.
func cpioFill(n int) string { return "\x00\x00\x00"[:-n&3] }
