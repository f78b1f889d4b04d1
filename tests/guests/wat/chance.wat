;; world: validator
;; Refuses with 400, the last digit of the first of two random bytes, and that of random bits. A
;; model that begins with z makes it ask for as many bytes as there can be.
(import "gapura:plugin/random@0.1.0" "bytes" (func $bytes (param i32 i32)))
(import "gapura:plugin/random@0.1.0" "bits" (func $bits (result i64)))
(func $refuse (param $status i32) (param $from i32) (param $len i32) (result i32)
  (i32.store8 (i32.const 8) (i32.const 2))
  (i32.store16 (i32.const 16) (local.get $status))
  (i32.store (i32.const 28) (local.get $from))
  (i32.store (i32.const 32) (local.get $len))
  (i32.const 0))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param $chat i32) (result i32)
  (call $bytes
    (select (i32.const -1) (i32.const 2)
      (i32.eq (i32.load8_u (i32.load offset=16 (local.get $chat))) (i32.const 0x7a)))
    (i32.const 512))
  (call $refuse
    (i32.add (i32.const 400) (i32.add
      (i32.mul (i32.rem_u (i32.load8_u (i32.load (i32.const 512))) (i32.const 10)) (i32.const 10))
      (i32.wrap_i64 (i64.rem_u (call $bits) (i64.const 10)))))
    (i32.const 0) (i32.const 0)))
