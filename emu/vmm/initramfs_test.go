package vmm

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vpclab/vpclab/emu/stock"
	"github.com/vpclab/vpclab/emu/vmm/inside"
)

// oddKernel is a kernel with the modules that a guest needs, by name at least.
func oddKernel(t *testing.T, dep string) *stock.Image {
	t.Helper()
	dir := t.TempDir()
	for line := range strings.Lines(dep) {
		file, _, _ := strings.Cut(line, ":")
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("module "+file), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "modules.dep"), []byte(dep), 0o644); err != nil {
		t.Fatal(err)
	}
	return &stock.Image{Path: "/boot/vmlinuz-odd", Release: "odd", Modules: dir}
}

const oddModules = `kernel/virtio/virtio.ko:
kernel/virtio/virtio_ring.ko:
kernel/virtio/virtio_mmio.ko: kernel/virtio/virtio.ko kernel/virtio/virtio_ring.ko
kernel/net/virtio_net.ko: kernel/net/failover.ko kernel/virtio/virtio.ko kernel/virtio/virtio_ring.ko
kernel/net/failover.ko:
kernel/virtio_blk.ko: kernel/virtio/virtio.ko kernel/virtio/virtio_ring.ko
kernel/virtio_console.ko: kernel/virtio/virtio.ko kernel/virtio/virtio_ring.ko
`

func needProgram(t *testing.T) {
	t.Helper()
	if _, err := Program(); err != nil {
		t.Skip(err)
	}
}

// Drivers are named in the order of loading, and the file is the same whoever makes
// it, and made once.
func TestInitramfsIsMadeOnce(t *testing.T) {
	needProgram(t)
	image := oddKernel(t, oddModules)
	dir := t.TempDir()
	path, err := Initramfs(dir, image, "")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, name := range []string{"virtio_ring", "virtio", "virtio_mmio", "failover", "virtio_net", "virtio_blk", "virtio_console"} {
		next := bytes.Index(b, []byte("-"+name+".ko\x00"))
		if next < at {
			t.Errorf("%s is at byte %d, and the one before at %d", name, next, at)
		}
		at = next
	}
	elsewhere, err := Initramfs(t.TempDir(), image, "")
	if err != nil {
		t.Fatal(err)
	}
	if other, err := os.ReadFile(elsewhere); err != nil || !bytes.Equal(b, other) {
		t.Errorf("made twice it differs: %v", err)
	}
	if err := os.WriteFile(path, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if again, err := Initramfs(dir, image, ""); err != nil || again != path {
		t.Errorf("asked again it is %s, %v", again, err)
	}
	if b, _ := os.ReadFile(path); string(b) != "kept" {
		t.Error("it was made again")
	}
}

func TestInitramfsHasTheRecordingOfItsVM(t *testing.T) {
	needProgram(t)
	image, dir := oddKernel(t, oddModules), t.TempDir()
	trace := filepath.Join(t.TempDir(), "shop.trace")
	if err := os.WriteFile(trace, []byte("a recording"), 0o600); err != nil {
		t.Fatal(err)
	}
	plain, err := Initramfs(dir, image, "")
	if err != nil {
		t.Fatal(err)
	}
	with, err := Initramfs(dir, image, trace)
	if err != nil || with == plain {
		t.Fatalf("%s with the recording, %s without: %v", with, plain, err)
	}
	b, err := os.ReadFile(with)
	if err != nil || !bytes.Contains(b, []byte(strings.TrimPrefix(inside.TraceFile, "/")+"\x00")) || !bytes.Contains(b, []byte("a recording")) {
		t.Errorf("the recording is not in it: %v", err)
	}
	if _, err := Initramfs(dir, image, trace+".none"); err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("a recording that is not there: %v", err)
	}
}

func TestInitramfsNamesTheDriverThatIsNotThere(t *testing.T) {
	needProgram(t)
	_, err := Initramfs(t.TempDir(), oddKernel(t, strings.Replace(oddModules, "kernel/virtio_blk.ko", "kernel/other.ko", 1)), "")
	if !stock.IsMissing(err) || !strings.Contains(err.Error(), "virtio_blk") {
		t.Errorf("got %v", err)
	}
}

// The program is one for x86-64 that needs no libraries, small enough for a guest of
// 100 MB.
func TestProgramIsLean(t *testing.T) {
	needProgram(t)
	b, err := Program()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if ok, err := stock.Static(path); err != nil || !ok {
		t.Errorf("it is not static: %v", err)
	}
	const most = 6 << 20
	if len(b) > most {
		t.Errorf("it has %d bytes: want at most %d", len(b), most)
	}
	t.Logf("%d bytes", len(b))
}
