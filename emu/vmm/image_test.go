package vmm

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vpclab/vpclab/emu/fabric"
	"github.com/vpclab/vpclab/emu/guest"
	"github.com/vpclab/vpclab/emu/stock"
)

// picture is what a raw image of a test holds: data with a hole in it.
func picture() []byte {
	b := make([]byte, 3<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b[:1<<20])
	_, _ = r.Read(b[2<<20 : 2<<20+5000])
	return b
}

// emptyDisk is a host's folder with a new disk.
func emptyDisk(t *testing.T, size int64) string {
	t.Helper()
	dir := t.TempDir()
	d, err := guest.CreateDisk(dir, size)
	if err != nil {
		t.Fatal(err)
	}
	d.Close()
	return dir
}

func put(t *testing.T, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image, with a comma")
	if err := os.WriteFile(path, b, 0o400); err != nil {
		t.Fatal(err)
	}
	return path
}

// The disk holds the image, whichever its format, and what the VM wrote since is
// not overwritten; a filling that was cut off is done again.
func TestADiskIsFilledFromAnImageOnce(t *testing.T) {
	raw := picture()
	images := map[string]string{"raw": put(t, raw)}
	q, err := stock.FindGuestQEMU(t.Context())
	if tool, lookErr := exec.LookPath("qemu-img"); err == nil && lookErr == nil {
		images["qcow2"] = filepath.Join(t.TempDir(), "image, with a comma.qcow2")
		if out, err := exec.Command(tool, "convert", "-f", "raw", "-O", "qcow2", images["raw"], images["qcow2"]).CombinedOutput(); err != nil {
			t.Fatalf("qemu-img: %v: %s", err, out)
		}
	}
	for kind, image := range images {
		t.Run(kind, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			dir := emptyDisk(t, 4<<20)
			s := guest.Spec{Image: image, Disk: 4 << 20}
			fill := func() []byte {
				t.Helper()
				if err := fillFromImage(ctx, fabric.NewStarter(), q, dir, s); err != nil {
					t.Fatal(err)
				}
				b, err := os.ReadFile(filepath.Join(dir, guest.DiskFile))
				if err != nil {
					t.Fatal(err)
				}
				return b
			}
			if got := fill(); len(got) != 4<<20 || !bytes.Equal(got[:len(raw)], raw) {
				t.Fatalf("the disk of %d bytes does not hold the image", len(got))
			}
			f, err := os.OpenFile(filepath.Join(dir, guest.DiskFile), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte("written"), 100); err != nil {
				t.Fatal(err)
			}
			if got := fill(); string(got[100:107]) != "written" {
				t.Error("what the VM wrote was overwritten")
			}
			if err := os.WriteFile(filepath.Join(dir, fillingFile), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := fill(); !bytes.Equal(got[:len(raw)], raw) {
				t.Error("a filling that was cut off was not done again")
			}
		})
	}
}

func TestAnImageThatIsOfNoUse(t *testing.T) {
	head := append([]byte(qcow2Magic), make([]byte, 28)...)
	for name, c := range map[string]struct {
		image string
		disk  int64
		want  string
	}{
		"no disk to copy it onto":   {put(t, picture()), 0, "give the VM a disk"},
		"a disk that is too small":  {put(t, picture()), 2 << 20, "3145728 bytes, and the VM's has 2097152"},
		"nowhere":                   {"/nonexistent/image", 4 << 20, "no such file"},
		"empty":                     {put(t, nil), 4 << 20, "no raw image"},
		"a text":                    {put(t, []byte("hello")), 4 << 20, "5 bytes are no raw image"},
		"a qcow2 of a disk of none": {put(t, head), 4 << 20, "of a disk of 0 bytes"},
	} {
		err := fillFromImage(t.Context(), nil, nil, emptyDisk(t, 4<<20), guest.Spec{Image: c.image, Disk: c.disk})
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.image) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
