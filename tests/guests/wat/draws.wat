;; world: draws
;; beside: wasi.wit
;; Refuses with sixteen letters, by four bits of each byte of a random number and of the seed of hash
;; maps, as WASI makes them.
(import "wasi:random/random@0.2.6" "get-random-u64" (func $random (result i64)))
(import "wasi:random/insecure-seed@0.2.6" "insecure-seed" (func $seed (param i32)))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param i32) (result i32)
  (local $at i32)
  (call $seed (i32.const 520))
  (i64.store (i32.const 512) (call $random))
  (local.set $at (i32.const 512))
  (loop $next
    (i32.store8 (local.get $at)
      (i32.add (i32.const 97) (i32.and (i32.load8_u (local.get $at)) (i32.const 15))))
    (local.set $at (i32.add (local.get $at) (i32.const 1)))
    (br_if $next (i32.lt_u (local.get $at) (i32.const 528))))
  (i32.store8 (i32.const 8) (i32.const 2))
  (i32.store16 (i32.const 16) (i32.const 400))
  (i32.store (i32.const 28) (i32.const 512))
  (i32.store (i32.const 32) (i32.const 16))
  (i32.const 0))
