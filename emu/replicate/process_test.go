package replicate

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vpclab/vpclab/emu/migrate/wire"
)

// filePlace is a place in files, which a process can leave to another.
type filePlace struct {
	memory []byte
	disk   *os.File
	size   int64
	folder string
}

func (p *filePlace) Memory() []byte                               { return p.memory }
func (p *filePlace) Disk() Image                                  { return p }
func (p *filePlace) Folder() string                               { return p.folder }
func (p *filePlace) Size() int64                                  { return p.size }
func (p *filePlace) ReadAt(b []byte, off int64) (int, error)      { return p.disk.ReadAt(b, off) }
func (p *filePlace) WriteAt(b []byte, off int64) (n int, e error) { return p.disk.WriteAt(b, off) }

func openPlace(folder string, pages, blocks int) (*filePlace, error) {
	p := &filePlace{folder: folder, size: int64(blocks) * pageSize}
	m, err := os.OpenFile(filepath.Join(folder, "memory"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	if err := m.Truncate(int64(pages) * pageSize); err != nil {
		return nil, err
	}
	if p.memory, err = unix.Mmap(int(m.Fd()), 0, pages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, err
	}
	if p.disk, err = os.OpenFile(filepath.Join(folder, "disk"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	return p, p.disk.Truncate(p.size)
}

const processFolder = "VPCLAB_TEST_STANDBY"

// TestStandbyProcess is the process of TestStandbyIsKilledForReal.
func TestStandbyProcess(t *testing.T) {
	folder, mode, ok := strings.Cut(os.Getenv(processFolder), "|")
	if !ok {
		t.Skip("it is for another test")
	}
	p, err := openPlace(folder, testPages, testBlocks)
	if err != nil {
		t.Fatal(err)
	}
	opt := testOptions(mode)
	opt.Silence = 20 * time.Second
	s, err := NewStandby(p, opt, Tell{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := wire.ListenTCP(context.Background(), netip.MustParseAddrPort("127.0.0.1:0"))
	if err != nil {
		t.Fatal(err)
	}
	ln := wire.Listen(l, wire.Config{ID: [16]byte{1, 2, 3}, Patience: patience})
	fmt.Printf("at %s\n", l.Addr())
	t.Fatal(s.Run(context.Background(), func(ctx context.Context) (wire.Session, error) { return ln.Accept(ctx, 0) }))
}

// standbyProcess starts one and has the WAN lead there.
func (p *pair) standbyProcess(folder string) *exec.Cmd {
	p.t.Helper()
	c := exec.Command(os.Args[0], "-test.run=^TestStandbyProcess$")
	c.Env = append(os.Environ(), processFolder+"="+folder+"|"+p.opt.Mode)
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		p.t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	at, is := strings.CutPrefix(strings.TrimSpace(line), "at ")
	if !is {
		p.t.Fatalf("the standby's process says %q: %v", line, err)
	}
	addr := netip.MustParseAddrPort(at)
	p.wan.to.Store(&addr)
	return c
}

// kill ends a process as nothing else does.
func kill(t *testing.T, c *exec.Cmd) {
	t.Helper()
	if err := c.Process.Kill(); err != nil {
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := c.Wait(); !errors.As(err, &exit) {
		t.Errorf("a process that was killed ended with %v", err)
	}
}

// TestStandbyIsKilledForReal by SIGKILL, in the middle of whatever it does, again
// and again; its successor has all that was acknowledged.
func TestStandbyIsKilledForReal(t *testing.T) {
	kills := 3
	if long() {
		kills = 40
	}
	forModes(t, modes, func(t *testing.T, mode string) {
		opt := testOptions(mode)
		opt.Silence = 20 * time.Second
		p := newPair(t, opt, 0, 500*time.Microsecond)
		folder := t.TempDir()
		r := rand.New(rand.NewPCG(1, 4))
		c := p.standbyProcess(folder)
		p.vm.run(1, 300*time.Microsecond)
		p.startPrimary()
		await(t, "the standby to be in sync", p.synced)
		for range kills {
			timer := time.NewTimer(time.Duration(r.IntN(50_000)) * time.Microsecond)
			<-timer.C // the moment
			kill(t, c)
			c = p.standbyProcess(folder)
			p.flows(5)
		}
		kill(t, c)
		p.die()
		at, err := openPlace(folder, testPages, testBlocks)
		if err != nil {
			t.Fatal(err)
		}
		s, err := NewStandby(at, opt, Tell{})
		if err != nil {
			t.Fatal(err)
		}
		held, err := s.Activate(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		p.at.memory = at.memory
		if _, err := at.ReadAt(p.at.disk.b, 0); err != nil {
			t.Fatal(err)
		}
		p.check(held)
	})
}
