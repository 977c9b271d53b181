package stock

import "debug/elf"

// Static tells whether the program at path needs no shared libraries, and so can
// be process 1 of a machine where there are none.
func Static(path string) (bool, error) {
	f, err := elf.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false, nil
		}
	}
	return true, nil
}
