package inside_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/emu/vmm"
	"github.com/vpclab/vpclab/emu/vmm/inside"
)

// patience is for a start on a machine that has other things to do.
const patience = 100 * time.Second

// real is a VM without a keeper, by itself in QEMU, whose network is QEMU's own.
type real struct {
	dir     string
	spec    guest.Spec
	address string // where its clients reach it
	*inside.Link
}

// boot starts a VM and waits until it answers.
func boot(t *testing.T, spec guest.Spec) *real {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a kernel: left out by -short")
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, fmt.Errorf("the VM did not answer in %v", patience))
	defer cancel()
	rate := stock.StartTSC()
	q, err := stock.FindGuestQEMU(ctx)
	if err != nil {
		t.Skip(err)
	}
	image, err := stock.FindImage()
	if err != nil {
		t.Skip(err)
	}
	v := &real{dir: t.TempDir(), spec: spec}
	initramfs, err := vmm.Initramfs(v.dir, image, "")
	if stock.IsMissing(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	d, err := guest.CreateDisk(v.dir, spec.Disk)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	if err := guest.FormatDisk(v.dir, spec); err != nil {
		t.Fatal(err)
	}
	kHz := rate.KiloHertz()
	if kHz == 0 {
		t.Skip("this machine does not trust its time stamp counter")
	}
	line, err := inside.KernelLine(inside.Orders{Spec: spec, Address: netip.MustParsePrefix("10.0.2.15/24"), Gateway: netip.MustParseAddr("10.0.2.2")}, kHz)
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v.address = free.Addr().String()
	free.Close()
	began := time.Now()
	v.start(t, q, append(q.Firmware(),
		"-M", "microvm,rtc=on,pit=off,pic=off", "-accel", "tcg", "-cpu", "max,la57=off", "-m", fmt.Sprintf("%dB", spec.Memory),
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", image.Loadable(ctx), "-initrd", initramfs, "-append", line, "-serial", "file:"+v.file("console"),
		"-netdev", fmt.Sprintf("user,id=net,restrict=on,hostfwd=tcp:%s-:%d", v.address, spec.Port), "-device", "virtio-net-device,netdev=net",
		"-drive", "if=none,id=disk,format=raw,file="+v.file(guest.DiskFile), "-device", "virtio-blk-device,drive=disk",
		"-device", "virtio-serial-device,max_ports=2", "-chardev", "socket,id=port,path="+v.file("port")+",server=on,wait=on", "-device", "virtserialport,chardev=port,name="+inside.PortName))
	conn := v.dial(t, ctx)
	v.Link = inside.NewLink(conn)
	t.Cleanup(func() { v.Close() })
	if err := v.Hello(ctx); err != nil {
		t.Fatalf("%v\n%s", err, v.console())
	}
	t.Logf("answered after %v; %s", time.Since(began).Round(10*time.Millisecond), strings.TrimSpace(v.console()))
	return v
}

func (v *real) file(name string) string { return filepath.Join(v.dir, name) }

func (v *real) console() string {
	b, _ := os.ReadFile(v.file("console"))
	return string(b)
}

// start runs QEMU until the test ends.
func (v *real) start(t *testing.T, q *stock.QEMU, args []string) {
	t.Helper()
	cmd := exec.Command(q.Path, args...)
	cmd.Env = q.Env()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var words strings.Builder
	cmd.Stderr = &words
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("QEMU said: %s\nits console: %s", words.String(), v.console())
		}
	})
}

// dial connects to the port, which QEMU waits for before it starts the VM.
func (v *real) dial(t *testing.T, ctx context.Context) net.Conn {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("unix", v.file("port"))
		if err == nil {
			return conn
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("connect to QEMU's port: %v", err)
		}
	}
}

// A VM serves its clients by its own kernel, keeps its schedule or says that it
// does not, and everything that it wrote is as it wrote it.
func TestARealGuestWorksAndVerifies(t *testing.T) {
	v := boot(t, guest.Spec{
		Name: "shop", Kind: guest.KindQEMU, Memory: 162 << 20, Work: 64 << 20, Disk: 16 << 20,
		Workload: guest.TPCW, Scale: 1. / 16, Seed: 7, Port: 80,
	})
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, fmt.Errorf("the VM took more than %v", patience))
	defer cancel()
	before, err := v.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	c, err := guest.Dial(ctx, v.address, 5, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var longest time.Duration
	asked := 0
	for time.Since(began) < 3*time.Second {
		for _, k := range []guest.Kind{guest.Browse, guest.Buy, guest.Ping, guest.Browse, guest.Increment} {
			at := time.Now()
			if _, err := c.Do(ctx, k); err != nil {
				t.Fatalf("%s: %v", k, err)
			}
			longest = max(longest, time.Since(at))
			asked++
		}
	}
	after, err := v.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(began)
	t.Logf("in %v it did %d steps and left out %d, answered %d requests (longest %v)", took.Round(time.Millisecond), after.Steps-before.Steps, after.Late-before.Late, asked, longest.Round(time.Millisecond))
	if after.Steps == before.Steps || after.Acked+1 < c.Acked() || // the last may be told after the client knows
		after.Clients != 1 || after.Fault != "" {
		t.Errorf("it says %+v after %+v; the client was acknowledged %d", after, before, c.Acked())
	}
	// Done and left out are together what was due by the VM's own clock, but for what
	// may yet be done.
	const tick = 5 * time.Millisecond
	due, told := float64(took/tick), float64(after.Steps+after.Late-before.Steps-before.Late)
	if told < due*0.8-150 || told > due*1.2+150 {
		t.Errorf("it tells of %.0f steps where %.0f were due", told, due)
	}
	at := time.Now()
	found, err := v.Verify(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("verified %d pages and %d blocks in %v", found.Pages, found.Blocks, time.Since(at).Round(time.Millisecond))
	if found.Pages != 16384 || found.Blocks == 0 || found.Bad != 0 {
		t.Errorf("it found %+v", found)
	}
}
