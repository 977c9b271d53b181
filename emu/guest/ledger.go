package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"slices"
	"sort"
	"sync"
)

// The ledger is a guest's memory of what it acknowledged: for each client how
// many increments. An increment is a record on disk before it is acknowledged,
// so that after a crash, or a migration that went wrong, it can be told exactly
// which acknowledged ones are gone. Blocks of the disk, of PageSize:
//
//	0           magic, version, seed, CRC-32C
//	1 … 16      snapshot, every second one
//	17 … 32     snapshot, the others
//	33 … 96     records: number n at place n modulo their number
//
// A snapshot is written after every half round of records, before any that it
// holds is overwritten. What is newer than the newest snapshot is found by its
// number.
const (
	ledgerMagic   = "vpcl-led"
	ledgerVersion = 1

	snapshotBlocks = 16
	recordBlocks   = 64
	snapshotAt     = 1
	recordsAt      = snapshotAt + 2*snapshotBlocks
	dataAt         = recordsAt + recordBlocks // first block of the rest

	recordSize = 32
	records    = recordBlocks * PageSize / recordSize
	sectorSize = 512 // unit of writing records

	snapshotHead = 32
	maxClients   = (snapshotBlocks*PageSize - snapshotHead) / 16
)

// minDisk holds the ledger and some data.
const minDisk = 1 << 20

// ledger is the ledger in use. Without a disk it is forgotten with the process.
type ledger struct {
	mu     sync.Mutex
	disk   *Disk
	seq    uint64 // of the last record
	counts map[uint64]uint64
	sector [sectorSize]byte // the one that the last record is in
	newest *Write           // of the last record
}

// errNoLedger says that a disk was never used.
var errNoLedger = errors.New("the disk has no ledger")

// formatLedger begins an empty one.
func formatLedger(d *Disk, seed uint64) (*ledger, error) {
	l := &ledger{disk: d, counts: map[uint64]uint64{}}
	if d == nil {
		return l, nil
	}
	if err := l.snapshot(); err != nil {
		return nil, err
	}
	_, err := d.Begin(ledgerHead(seed), 0)
	return l, err
}

func ledgerHead(seed uint64) []byte {
	b := make([]byte, sectorSize)
	copy(b, ledgerMagic)
	binary.LittleEndian.PutUint64(b[8:], ledgerVersion)
	binary.LittleEndian.PutUint64(b[16:], seed)
	binary.LittleEndian.PutUint32(b[24:], crc32.Checksum(b[:24], castagnoli))
	return b
}

// recoverLedger reads what a former guest with the same seed left on the disk;
// errNoLedger when there is nothing.
func recoverLedger(d *Disk, seed uint64) (*ledger, error) {
	head := make([]byte, sectorSize)
	if _, err := d.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("read ledger of disk %s: %w", d.Folder(), err)
	}
	if isZero(head) {
		return nil, errNoLedger
	}
	if string(head) != string(ledgerHead(seed)) {
		return nil, fmt.Errorf("disk %s has another guest's ledger, or a mangled one", d.Folder())
	}
	l := &ledger{disk: d}
	for slot := range 2 {
		seq, counts, err := l.readSnapshot(slot)
		if err == nil && (l.counts == nil || seq > l.seq) {
			l.seq, l.counts = seq, counts
		}
	}
	if l.counts == nil {
		return nil, fmt.Errorf("disk %s: neither snapshot of the ledger is whole", d.Folder())
	}
	area := make([]byte, recordBlocks*PageSize)
	if _, err := d.ReadAt(area, recordsAt*PageSize); err != nil {
		return nil, fmt.Errorf("read ledger of disk %s: %w", d.Folder(), err)
	}
	for l.replay(area) {
	}
	// What follows goes into the sector where the next record belongs.
	copy(l.sector[:], area[recordPlace(l.seq+1)&^(sectorSize-1)-recordsAt*PageSize:])
	return l, nil
}

// replay takes the record after the last from area, if it is there.
func (l *ledger) replay(area []byte) (more bool) {
	b := area[recordPlace(l.seq+1)-recordsAt*PageSize:][:recordSize]
	seq, client, count := binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:])
	if seq != l.seq+1 || binary.LittleEndian.Uint32(b[24:]) != crc32.Checksum(b[:24], castagnoli) {
		return false
	}
	l.seq, l.counts[client] = seq, count
	return true
}

// verify compares the ledger on disk with this one: a guest that goes on on
// another disk does.
func (l *ledger) verify(seed uint64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.disk == nil {
		return nil
	}
	there, err := recoverLedger(l.disk, seed)
	if err != nil {
		return err
	}
	if there.seq != l.seq || !maps.Equal(there.counts, l.counts) {
		return fmt.Errorf("ledger on disk %s ends with record %d: %d were acknowledged or under way", l.disk.Folder(), there.seq, l.seq)
	}
	return nil
}

// recordPlace is where on disk record number seq is.
func recordPlace(seq uint64) int64 {
	return recordsAt*PageSize + int64(seq%records)*recordSize
}

// add records increment number count of a client. Increments of a client are
// numbered from 1 without a gap; one that is there already is done. The
// increment counts when the Write does; nil: it does.
func (l *ledger) add(client, count uint64) (*Write, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := l.counts[client]
	switch {
	case count <= last:
		return l.newest, nil // it may not count yet
	case count != last+1:
		return nil, fmt.Errorf("increment %d of client %x after %d", count, client, last)
	case last == 0 && len(l.counts) >= maxClients:
		return nil, fmt.Errorf("ledger is full: %d clients", maxClients)
	}
	if l.disk != nil {
		if err := l.record(l.seq+1, client, count); err != nil {
			return nil, err
		}
	}
	l.seq++
	l.counts[client] = count
	if l.disk != nil && l.seq%(records/2) == 0 {
		if err := l.snapshot(); err != nil {
			return nil, err
		}
	}
	return l.newest, nil
}

// record writes a record to disk.
func (l *ledger) record(seq, client, count uint64) error {
	at := recordPlace(seq)
	b := l.sector[at%sectorSize:][:recordSize]
	if at%sectorSize == 0 {
		clear(l.sector[:])
	}
	binary.LittleEndian.PutUint64(b, seq)
	binary.LittleEndian.PutUint64(b[8:], client)
	binary.LittleEndian.PutUint64(b[16:], count)
	binary.LittleEndian.PutUint32(b[24:], crc32.Checksum(b[:24], castagnoli))
	w, err := l.disk.Begin(l.sector[:], at&^(sectorSize-1))
	if err == nil {
		l.newest = w
	}
	return err
}

// count is how many increments of a client were recorded, and how many of all
// clients.
func (l *ledger) count(client uint64) (its, all uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts[client], l.seq
}

func snapshotPlace(slot int) int64 { return int64(snapshotAt+slot*snapshotBlocks) * PageSize }

// snapshot writes all counts. Only what is used of the room is written.
func (l *ledger) snapshot() error {
	clients := make([]uint64, 0, len(l.counts))
	for c := range l.counts {
		clients = append(clients, c)
	}
	sort.Slice(clients, func(i, j int) bool { return clients[i] < clients[j] })
	body := make([]byte, 0, 16*len(clients))
	for _, c := range clients {
		body = binary.LittleEndian.AppendUint64(body, c)
		body = binary.LittleEndian.AppendUint64(body, l.counts[c])
	}
	b := make([]byte, snapshotHead, snapshotHead+len(body))
	copy(b, ledgerMagic)
	binary.LittleEndian.PutUint64(b[8:], l.seq)
	binary.LittleEndian.PutUint64(b[16:], uint64(len(clients)))
	binary.LittleEndian.PutUint32(b[24:], crc32.Checksum(body, castagnoli))
	binary.LittleEndian.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
	slot := int(l.seq/(records/2)) % 2
	_, err := l.disk.Begin(append(b, body...), snapshotPlace(slot))
	return err // its writes are in order before those of the next records
}

func (l *ledger) readSnapshot(slot int) (seq uint64, counts map[uint64]uint64, err error) {
	b := make([]byte, snapshotBlocks*PageSize)
	if _, err := l.disk.ReadAt(b, snapshotPlace(slot)); err != nil {
		return 0, nil, err
	}
	return parseSnapshot(b)
}

func parseSnapshot(b []byte) (seq uint64, counts map[uint64]uint64, err error) {
	if len(b) < snapshotHead || string(b[:8]) != ledgerMagic ||
		crc32.Checksum(b[:28], castagnoli) != binary.LittleEndian.Uint32(b[28:]) {
		return 0, nil, fs.ErrInvalid
	}
	n, body := binary.LittleEndian.Uint64(b[16:]), b[snapshotHead:]
	if n > maxClients || n*16 > uint64(len(body)) || crc32.Checksum(body[:n*16], castagnoli) != binary.LittleEndian.Uint32(b[24:]) {
		return 0, nil, fs.ErrInvalid
	}
	counts = make(map[uint64]uint64, n)
	for e := body[:n*16]; len(e) > 0; e = e[16:] {
		counts[binary.LittleEndian.Uint64(e)] = binary.LittleEndian.Uint64(e[8:])
	}
	return binary.LittleEndian.Uint64(b[8:]), counts, nil
}

// save and recall are for the state of the virtual CPUs. With a disk the counts
// are there, without one they are part of the state.
func (l *ledger) save(s *cpuState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.ledger = l.seq
	if l.disk != nil {
		return
	}
	for _, client := range slices.Sorted(maps.Keys(l.counts)) {
		s.counts = append(s.counts, client, l.counts[client])
	}
}

func (l *ledger) recall(s *cpuState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq = s.ledger
	for pair := range slices.Chunk(s.counts, 2) {
		l.counts[pair[0]] = pair[1]
	}
}

// move has the ledger go on on another disk, which holds the same. A guest that
// is paused does that.
func (l *ledger) move(to *Disk) {
	l.mu.Lock()
	l.disk = to
	l.mu.Unlock()
}
