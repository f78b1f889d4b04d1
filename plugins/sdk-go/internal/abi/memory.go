package abi

import "unsafe"

var (
	// What the host or this package wrote, as blocks that are aligned for every type.
	blocks [][]uint64
	// What the blocks have addresses of.
	kept []any
)

// alloc returns size zeroed bytes that stay where they are until Forget.
func alloc(size uintptr) unsafe.Pointer {
	block := make([]uint64, (size+7)/8+1)
	blocks = append(blocks, block)
	return unsafe.Pointer(&block[0])
}

// Room returns where the host may write size bytes. It stays there until [Forget].
func Room(size uintptr) unsafe.Pointer {
	return alloc(size)
}

// Forget gives up what was written so far. A stage calls it once it has read its arguments; what it
// returns stays until the next call.
func Forget() {
	blocks, kept = nil, nil
}
