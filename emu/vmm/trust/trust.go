package trust

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/vpclab/vpclab/emu/stock"
)

// Verdict is what is known of a QEMU.
type Verdict struct {
	QEMU    string // the program
	Version string
	Kernel  string // of the guest
	Accel   string // kvm, tcg
	Trusted bool
	Why     string // in words
	Moves   int    // that went well
	Pages   int    // of the guest's that were compared after each
	Took    time.Duration

	late bool // nothing wrong was seen but that an answer did not come
}

// Err is nil for a QEMU that may be trusted. It names the program, what was seen
// and what to do.
func (v *Verdict) Err() error {
	if v.Trusted {
		return nil
	}
	return &stock.Missing{
		What: fmt.Sprintf("%s (%s, %s) must not move VMs that run: %s", v.QEMU, v.Version, v.Accel, v.Why),
		Fix:  "./run.sh guest-qemu (unpacks another one into the cache folder, without root), or set VPCLAB_GUEST_QEMU to one that `vpclab guest-qemu` finds fit; vpclab's own algorithms move a VM that stands meanwhile, and need none",
	}
}

// Ask gives the verdict on a QEMU with a guest of this kernel, from the cache
// folder where it is known. Else a trial finds it out, which takes 10 to 30 s;
// beginning, where it is not nil, is called before that. The error is about a
// trial that could not be made.
func Ask(ctx context.Context, q *stock.QEMU, image *stock.Image, accel string, beginning func()) (*Verdict, error) {
	if v := Known(q, image, accel); v != nil {
		return v, nil
	}
	return AskAgain(ctx, q, image, accel, beginning)
}

// AskAgain is Ask, whatever is known.
func AskAgain(ctx context.Context, q *stock.QEMU, image *stock.Image, accel string, beginning func()) (*Verdict, error) {
	if beginning != nil {
		beginning()
	}
	v, err := Try(ctx, q, image, accel)
	if err == nil && v.late { // a guest that hangs does so again, and a machine that was busy may not be any more
		v, err = Try(ctx, q, image, accel)
	}
	if err != nil {
		return nil, fmt.Errorf("find out whether QEMU may be trusted: %w", err)
	}
	// Inside a lab's kernel nothing can be kept; it is found out again the next time.
	_ = v.keep(q, image)
	return v, nil
}

func (v *Verdict) keep(q *stock.QEMU, image *stock.Image) error {
	path, err := keptAt(q, image, v.Accel)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(v, "", "\t")
	if err != nil {
		return err
	}
	return stock.ReplaceFile(path, append(b, '\n'))
}

// Known is the verdict if it is known, and nil otherwise.
func Known(q *stock.QEMU, image *stock.Image, accel string) *Verdict {
	path, err := keptAt(q, image, accel)
	if err != nil {
		return nil
	}
	return read(path)
}

// keptAt is where a verdict is kept: beside what else is known of the kernel's
// image, under a name that is the program's as it is.
func keptAt(q *stock.QEMU, image *stock.Image, accel string) (string, error) {
	dir, err := image.Cache()
	if err != nil {
		return "", err
	}
	f, err := os.Open(q.Path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	fmt.Fprintln(sum, trial, accel)
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return filepath.Join(dir, "guest-qemu-"+hex.EncodeToString(sum.Sum(nil)[:8])+".json"), nil
}

func read(path string) *Verdict {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var v Verdict
	if json.Unmarshal(b, &v) != nil {
		return nil
	}
	return &v
}
