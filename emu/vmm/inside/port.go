package inside

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/child"
	"github.com/vpclab/vpclab/emu/guest"
)

// port is the inner end of the port by which a keeper asks.
type port struct {
	file *os.File
	raw  syscall.RawConn
	in   []byte // received, and no whole line yet
}

// openPort waits for the port of our name, and opens it.
func openPort(news *news) (*port, error) {
	path := ""
	err := news.await(deviceLimit, "the port "+PortName, func() bool { path = findPort("/sys/class/virtio-ports"); return path != "" })
	if err == nil {
		err = news.await(deviceLimit, path, exists(path))
	}
	if err != nil {
		return nil, err
	}
	// Not blocking, so that Go's poller waits for it.
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	return &port{file: f, raw: raw}, err
}

// findPort gives the device of the port of our name, if it is there.
func findPort(class string) string {
	names, _ := filepath.Glob(filepath.Join(class, "*", "name"))
	for _, path := range names {
		if b, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(b)) == PortName {
			return filepath.Join("/dev", filepath.Base(filepath.Dir(path)))
		}
	}
	return ""
}

// serve answers requests, one at a time and in order. It returns when the port
// fails, which it does not while the VM lives.
func (p *port) serve(machine *guest.Inside) error {
	for {
		line, err := p.line()
		if err != nil {
			return fmt.Errorf("read from port %s: %w", PortName, err)
		}
		var q request
		if child.Decode(line, &q) != nil || q.ID == 0 {
			continue // what a keeper that is gone did not finish
		}
		b, err := json.Marshal(reply(machine, q))
		if err != nil {
			return err
		}
		if err := p.write(append(b, '\n')); err != nil {
			return fmt.Errorf("answer at port %s: %w", PortName, err)
		}
	}
}

// reply does one request.
func reply(machine *guest.Inside, q request) answer {
	a := answer{ID: q.ID}
	switch q.Op {
	case opHello:
		a.Protocol = Protocol
	case opStatus:
		s := machine.Status()
		a.Status = &s
	case opVerify:
		v := machine.Verify()
		a.Verified = &v
	default:
		a.Error = fmt.Sprintf("the program in the guest knows no request %q: want hello, status or verify", q.Op)
	}
	return a
}

// line reads one line. A port whose other end nobody has connected to reads as an
// end of file; the poller wakes us when somebody does.
func (p *port) line() ([]byte, error) {
	for {
		if line, rest, ok := bytes.Cut(p.in, []byte{'\n'}); ok {
			line = bytes.Clone(line)
			p.in = append(p.in[:0], rest...)
			return line, nil
		}
		if len(p.in) > mostLineSize {
			p.in = p.in[:0]
		}
		var b [4 << 10]byte
		var n int
		var err error
		ended := p.raw.Read(func(fd uintptr) bool {
			n, err = unix.Read(int(fd), b[:])
			return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) && (n > 0 || err != nil)
		})
		if err = errors.Join(ended, err); err != nil {
			return nil, err
		}
		p.in = append(p.in, b[:n]...)
	}
}

// write writes all of b, when there is somebody who reads.
func (p *port) write(b []byte) error {
	for len(b) > 0 {
		var n int
		var err error
		ended := p.raw.Write(func(fd uintptr) bool {
			n, err = unix.Write(int(fd), b)
			return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
		})
		if err = errors.Join(ended, err); err != nil {
			return err
		}
		if n == 0 {
			return io.ErrShortWrite
		}
		b = b[n:]
	}
	return nil
}
