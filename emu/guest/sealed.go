package guest

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// A sealed page says itself what it must hold: its number, a version, and a
// checksum over the rest. The server works on such pages, in memory and on disk:
// their writers and readers are clients, so no plan knows what they hold.
const sealSize = 24

// seal writes version v of page id into b, with words of its own.
func seal(b []byte, seed uint64, id int, v uint64) {
	a := author{seed: mix(seed ^ uint64(id)*saltPage), texture: textures[1]}
	for i := range pageLines {
		a.line(b[i*lineSize:], i, v)
	}
	binary.LittleEndian.PutUint64(b, mix(seed+uint64(id)))
	binary.LittleEndian.PutUint64(b[8:], v)
	binary.LittleEndian.PutUint32(b[16:], crc32.Checksum(b[sealSize:], castagnoli))
	binary.LittleEndian.PutUint32(b[20:], crc32.Checksum(b[:20], castagnoli))
}

// sealedAs reads the seal of page id. none: it has none of this guest's.
func sealedAs(b []byte, seed uint64, id int) (v uint64, none bool, err error) {
	if binary.LittleEndian.Uint64(b) != mix(seed+uint64(id)) {
		return 0, true, nil
	}
	v = binary.LittleEndian.Uint64(b[8:])
	if crc32.Checksum(b[:20], castagnoli) != binary.LittleEndian.Uint32(b[20:]) ||
		crc32.Checksum(b[sealSize:PageSize], castagnoli) != binary.LittleEndian.Uint32(b[16:]) {
		return v, false, fmt.Errorf("its checksum does not fit (it says version %d)", v)
	}
	return v, false, nil
}
