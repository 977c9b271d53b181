package migrate

// DiskBeginOf is what the source of a disk of so many blocks begins with.
func DiskBeginOf(opt DiskOptions, blocks int) []byte {
	p, err := opt.plan(int64(blocks) * BlockSize)
	if err != nil {
		panic(err)
	}
	return encodeJSON(p)
}

// DiskBatchOf is a batch of blocks without what package codec makes of them.
func DiskBatchOf(ack bool, blocks ...uint32) []byte { return appendBlocks(nil, ack, blocks) }
