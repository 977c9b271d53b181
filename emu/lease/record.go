package lease

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// kept is what a witness keeps on its disk of one VM: a file of a few lines that
// a person can read.
type kept struct {
	VM       string        `json:"vm"`
	Instance uint64        `json:"instance"`
	Hosts    [2]string     `json:"hosts"`
	Term     time.Duration `json:"term_ns"` // the longest that leases were given for
	Gen      uint64        `json:"gen"`
	Holder   string        `json:"holder"`
	InSync   bool          `json:"in_sync"`
}

// keep is what is kept of a record.
func keep(c Config, term time.Duration, r Record) kept {
	hosts := [2]string{c.Members[HostA].Name, c.Members[HostB].Name}
	return kept{VM: c.VM, Instance: c.Instance, Hosts: hosts, Term: term, Gen: r.Gen, Holder: hosts[r.Holder], InSync: r.InSync}
}

// record is what was recorded of the VM that c means; ok is false if it was of
// an earlier instance of it.
func (k kept) record(c Config) (r Record, ok bool, err error) {
	if k.Instance != c.Instance {
		return r, false, nil
	}
	if was := keep(c, k.Term, r).Hosts; k.Hosts != was {
		return r, false, fmt.Errorf("its record is of the hosts %v, not %v: two other hosts are another instance", k.Hosts, was)
	}
	p, known := c.Party(k.Holder)
	if !known || p == Third || k.Gen == 0 {
		return r, false, fmt.Errorf("its record has generation %d and holder %q", k.Gen, k.Holder)
	}
	return Record{Gen: k.Gen, Holder: p, InSync: k.InSync}, true, nil
}

// recordPath is the file of a VM. A name may have any bytes.
func recordPath(dir, vm string) string {
	var b strings.Builder
	for _, c := range []byte(vm) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return filepath.Join(dir, b.String()+".lease")
}

// readKept is nil where nothing is kept.
func readKept(dir, vm string) (*kept, error) {
	path := recordPath(dir, vm)
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	k := new(kept)
	if err := json.Unmarshal(b, k); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if k.VM != vm {
		return nil, fmt.Errorf("%s is of VM %q", path, k.VM)
	}
	return k, nil
}

// write puts it on the disk, so that it is there after a crash of the machine:
// either this or what was there before.
func (k kept) write(dir string) error {
	b, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		return err
	}
	path := recordPath(dir, k.VM)
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	err = cmp.Or(err, f.Sync())
	err = cmp.Or(err, f.Close())
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	return cmp.Or(err, syncDir(dir))
}

// syncDir has names survive a crash.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return cmp.Or(d.Sync(), d.Close())
}
