package replicate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/zeebo/xxh3"

	"github.com/vpclab/vpclab/emu/event"
)

// recordFiles are in the standby's folder, beside the disk.
var recordFiles = [2]string{"replica.0", "replica.1"}

// records is where the standby notes what it holds. An epoch counts when its
// record is written: with the state of the VM, and with what the epoch wrote to
// the disk, which goes to the image after. There are two files, written by turns,
// so that the one before is whole while one is written; a successor does again what
// the newest says of the disk. That is enough: a record is written only when all
// before it is in the image.
//
// A record is, little endian,
//
//	 0  magic "vpcl-rec"
//	 8  its number, from 1
//	16  run (16 bytes), epoch, when it was (CLOCK_MONOTONIC), flags
//	56  bytes of the state, bytes of the extents
//	72  state, extents
//	    xxh3 of all that
type records struct {
	files  [2]*os.File
	number uint64 // of the newest
	buf    []byte
}

const (
	recordMagic = "vpcl-rec"
	recordHead  = 72
	recordTail  = 8

	flagSynced = 1
	flagFinal  = 2
)

// openRecords opens them, and gives what the newest says; extents are its own
// until the next write.
func openRecords(folder string) (r *records, held Held, extents []byte, err error) {
	r = &records{}
	for i, name := range recordFiles {
		if r.files[i], err = os.OpenFile(filepath.Join(folder, name), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
			return nil, Held{}, nil, errors.Join(err, r.close())
		}
		b, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return nil, Held{}, nil, errors.Join(err, r.close())
		}
		// What is no record was being written when its process ended, or never was one.
		if number, h, e, ok := parseRecord(b); ok && number > r.number {
			r.number, held, extents = number, h, e
		}
	}
	return r, held, extents, nil
}

// write notes what is held.
func (r *records) write(h *Held, extents []byte) error {
	r.number++
	b := append(r.buf[:0], recordMagic...)
	b = binary.LittleEndian.AppendUint64(b, r.number)
	b = append(b, h.Run[:]...)
	b = binary.LittleEndian.AppendUint64(b, h.Epoch)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.At))
	var flags uint64
	if h.Synced {
		flags |= flagSynced
	}
	if h.Final {
		flags |= flagFinal
	}
	b = binary.LittleEndian.AppendUint64(b, flags)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(h.State)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(extents)))
	b = append(append(b, h.State...), extents...)
	b = binary.LittleEndian.AppendUint64(b, xxh3.Hash(b))
	r.buf = b
	if _, err := r.files[r.number&1].WriteAt(b, 0); err != nil {
		return fmt.Errorf("keep epoch %d: %w", h.Epoch, err)
	}
	return nil
}

// parseRecord reads what write wrote; there may be more behind it.
func parseRecord(b []byte) (number uint64, h Held, extents []byte, ok bool) {
	if len(b) < recordHead+recordTail || string(b[:8]) != recordMagic {
		return 0, Held{}, nil, false
	}
	at := func(i int) uint64 { return binary.LittleEndian.Uint64(b[i:]) }
	room := uint64(len(b) - recordHead - recordTail)
	state, disk := at(56), at(64)
	if state > room || disk > room-state {
		return 0, Held{}, nil, false
	}
	end := recordHead + state + disk
	if xxh3.Hash(b[:end]) != at(int(end)) {
		return 0, Held{}, nil, false
	}
	h.Run = [16]byte(b[16:32])
	h.Epoch, h.At = at(32), event.Mono(at(40))
	h.Synced, h.Final = at(48)&flagSynced != 0, at(48)&flagFinal != 0
	if state > 0 {
		h.State = b[recordHead : recordHead+state]
	}
	return at(8), h, b[recordHead+state : end], true
}

func (r *records) close() (err error) {
	for _, f := range r.files {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}
