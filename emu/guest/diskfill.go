package guest

import "fmt"

// diskContent is what a database's disk looks like: 6.6 of 10 GB in use, and in
// that 26 % found twice by who remembers 1 % of the disk, 45 % by who remembers
// a tenth (CloudNet, §VI-E).
var diskContent = profile{
	zero:     0.34,
	twice:    [6]float64{0.20, 0.26, 0.31, 0.33, 0.34, 0.35},
	near:     [5]float64{0.06, 0.86, 0.95, 0.98, 1},
	textures: [...]float64{0.35, 0.40, 0.15, 0.10},
}

// fillDisk writes a new disk's data. Blocks of zeros stay holes.
func fillDisk(d *Disk, spec Spec) error {
	pl := newPlan(Spec{Memory: d.Size(), Seed: mix(spec.Seed + saltWord)}, diskContent)
	const batch = 64
	b := make([]byte, 0, batch*PageSize)
	first := dataAt
	flush := func() error {
		if len(b) == 0 {
			return nil
		}
		if _, err := d.Begin(b, int64(first)*PageSize); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
		b = b[:0]
		return nil
	}
	for q := dataAt; q < pl.pages; q++ {
		if r := pl.role[q]; r == roleZero || r == roleApp {
			if err := flush(); err != nil {
				return err
			}
			continue
		}
		if len(b) == 0 {
			first = q
		}
		b = b[:len(b)+PageSize]
		pl.fill(b[len(b)-PageSize:], q)
		if len(b) == cap(b) {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
