package vmm

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/vpclab/vpclab/emu/qmp"
	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/emu/unixsock"
)

// The tests of this file move a machine whose whole program adds one to a word of
// each page in turn. It boots at once, needs no kernel, and its memory says by
// itself whether it was moved whole: the words are equal, but for one step up or
// down where it is just now.

const (
	walkMemory = 32 << 20
	walkFrom   = 4 << 20
	walkTo     = 28 << 20 // the firmware has its tables above
)

// walker is the program, as an ELF file with the entry of PVH (Xen's
// docs/misc/pvh.pandoc): 32 bits, flat, no paging. pause is how long it rests after
// each page, in turns of a loop; 0: it halts for good.
func walker(pause uint32) []byte {
	const at = 1 << 20 // where it is loaded
	le := binary.LittleEndian
	code := []byte{0xfa, 0xf4, 0xeb, 0xfd} // cli; hlt; again
	if pause > 0 {
		code = le.AppendUint32([]byte{0xbe}, walkFrom)     // esi = the first page
		code = le.AppendUint32(append(code, 0xbf), walkTo) // edi = the end
		code = le.AppendUint32(append(code, 0xba), 1)      // edx = pause, of the first pass
		pass := len(code)                                  //
		code = append(code, 0x89, 0xf3)                    // ebx = esi
		page := len(code)                                  //
		code = append(code, 0xff, 0x03)                    // add one
		code = append(code, 0x89, 0xd1, 0x49, 0x75, 0xfd)  // ecx = edx; count it down
		code = append(code, 0x81, 0xc3, 0, 0x10, 0, 0)     // next page
		code = append(code, 0x39, 0xfb)                    // below the end?
		code = append(code, 0x72, byte(page-len(code)-2))  // then go on there
		code = le.AppendUint32(append(code, 0xba), pause)  // edx = pause
		code = append(code, 0xeb, byte(pass-len(code)-2))  // from the first page again
	}
	note := []byte{}
	for _, w := range []uint32{4, 4, 18} { // XEN_ELFNOTE_PHYS32_ENTRY
		note = le.AppendUint32(note, w)
	}
	note = append(note, "Xen\x00"...)
	note = le.AppendUint32(note, at)

	const header, program = 64, 56
	noteAt := uint64(header + 2*program)
	codeAt := noteAt + uint64(len(note))
	var b bytes.Buffer
	put := func(v ...any) {
		for _, v := range v {
			_ = binary.Write(&b, le, v) // a buffer takes everything
		}
	}
	b.WriteString("\x7fELF\x02\x01\x01")
	b.Write(make([]byte, 9))
	put(uint16(2), uint16(62), uint32(1), uint64(at), uint64(header), uint64(0), uint32(0), uint16(header), uint16(program), uint16(2), uint16(0), uint16(0), uint16(0))
	put(uint32(1), uint32(5), codeAt, uint64(at), uint64(at), uint64(len(code)), uint64(len(code)), uint64(1))
	put(uint32(4), uint32(4), noteAt, uint64(0), uint64(0), uint64(len(note)), uint64(len(note)), uint64(4))
	b.Write(note)
	b.Write(code)
	return b.Bytes()
}

// machine is a QEMU of a test.
type machine struct {
	*qmp.Client
	dir string
	cmd *exec.Cmd
}

// qemuFor is a QEMU that moves guests whole.
func qemuFor(t *testing.T) *stock.QEMU {
	q, err := stock.FindGuestQEMU(soon(t))
	if err != nil {
		t.Skip(err)
	}
	if strings.HasPrefix(q.Version, "7.") {
		t.Skipf("QEMU %s spoils machines that write while they move", q.Version)
	}
	return q
}

// startMachine starts one that walks, or waits for one that comes.
func startMachine(t *testing.T, name string, pause uint32, more ...string) *machine {
	q := qemuFor(t)
	m := &machine{dir: filepath.Join(ramFolder(t), name)}
	require.NoError(t, os.MkdirAll(m.dir, 0o700))
	kernel := filepath.Join(m.dir, "walker")
	require.NoError(t, os.WriteFile(kernel, walker(pause), 0o600))
	l, err := unixsock.Listen(filepath.Join(m.dir, "qmp"))
	require.NoError(t, err)
	defer l.Close()
	f, err := l.File()
	require.NoError(t, err)
	defer f.Close()
	args := append(q.Firmware(), "-M", "microvm,memory-backend=ram", "-accel", "tcg", "-m", fmt.Sprint(walkMemory>>20),
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%d,mem-path=%s/memory,share=on,prealloc=on", walkMemory, m.dir),
		"-nodefaults", "-no-user-config", "-display", "none", "-kernel", kernel,
		"-chardev", "socket,id=qmp,fd=3,server=on,wait=off", "-mon", "chardev=qmp,mode=control")
	m.cmd = exec.Command(q.Path, append(args, more...)...)
	m.cmd.Env, m.cmd.ExtraFiles, m.cmd.Stderr = q.Env(), []*os.File{f}, os.Stderr
	require.NoError(t, m.cmd.Start())
	t.Cleanup(func() {
		_ = m.cmd.Process.Kill()
		_ = m.cmd.Wait()
	})
	m.Client, err = qmp.Dial(soon(t), filepath.Join(m.dir, "qmp"))
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

// ramFolder is a folder in memory: post-copy wants one (userfaultfd).
func ramFolder(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "vpclab-test-")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, fmt.Errorf("the test waited a minute"))
	t.Cleanup(cancel)
	return ctx
}

// awaitWalk waits until the machine has been at each page.
func (m *machine) awaitWalk(t *testing.T) {
	ctx := soon(t)
	for {
		b, err := os.ReadFile(filepath.Join(m.dir, "memory"))
		require.NoError(t, err)
		if binary.LittleEndian.Uint32(b[walkTo-pageSize:]) > 0 {
			return
		}
		require.NoError(t, rest(ctx, 10*time.Millisecond))
	}
}

// walked is the sum of all that it has counted.
func (m *machine) walked(t *testing.T) (sum uint64) {
	b, err := os.ReadFile(filepath.Join(m.dir, "memory"))
	require.NoError(t, err)
	for at := walkFrom; at < walkTo; at += pageSize {
		sum += uint64(binary.LittleEndian.Uint32(b[at:]))
	}
	return sum
}

// whole says what is wrong with the memory of a machine that stands.
func (m *machine) whole() error {
	b, err := os.ReadFile(filepath.Join(m.dir, "memory"))
	if err != nil {
		return err
	}
	var steps []string
	for at := walkFrom; at < walkTo; at += pageSize {
		v, w := binary.LittleEndian.Uint32(b[at:]), uint32(0)
		if at > walkFrom {
			w = binary.LittleEndian.Uint32(b[at-pageSize:])
		}
		if at > walkFrom && v != w {
			steps = append(steps, fmt.Sprintf("page %d: %d after %d", at/pageSize, v, w))
			if v+1 != w {
				steps = append(steps, "by more than one")
			}
		}
	}
	if len(steps) > 1 {
		return fmt.Errorf("memory with %d steps: %s", len(steps), strings.Join(steps[:min(5, len(steps))], "; "))
	}
	return nil
}
