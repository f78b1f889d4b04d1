;; world: validator
;; Does what the first letter of the chat's model says: s keeps the model's name, t keeps it for a
;; second, g refuses with it or accepts where there is none, d forgets it and refuses with 401 if it
;; was there, else 400; h keeps 70,000 bytes, f 200 values of 20,000. A value that is too large is
;; refused with 400 and the KiB that there may be.
(import "gapura:plugin/kv@0.1.0" "get" (func $get (param i32 i32 i32)))
(import "gapura:plugin/kv@0.1.0" "set" (func $set (param i32 i32 i32 i32 i32 i64 i32)))
(import "gapura:plugin/kv@0.1.0" "delete" (func $delete (param i32 i32) (result i32)))
(data (i32.const 1024) "k")
(data (i32.const 1032) "000")
(func $refuse (param $status i32) (param $from i32) (param $len i32) (result i32)
  (i32.store8 (i32.const 8) (i32.const 2))
  (i32.store16 (i32.const 16) (local.get $status))
  (i32.store (i32.const 28) (local.get $from))
  (i32.store (i32.const 32) (local.get $len))
  (i32.const 0))
(func $keep (param $key i32) (param $key_len i32) (param $value i32) (param $len i32) (param $ttl i32)
  (result i32)
  (call $set (local.get $key) (local.get $key_len) (local.get $value) (local.get $len)
    (local.get $ttl) (i64.const 1000) (i32.const 512))
  (if (i32.eqz (i32.load8_u (i32.const 512))) (then (return (i32.const 0))))
  (call $refuse
    (i32.add (i32.const 400) (i32.shr_u (i32.load (i32.const 528)) (i32.const 10)))
    (i32.const 0) (i32.const 0)))
(func $fill (result i32)
  (local $n i32)
  (loop $again
    (i32.store8 (i32.const 1032) (i32.add (i32.const 48) (i32.div_u (local.get $n) (i32.const 100))))
    (i32.store8 (i32.const 1033) (i32.add (i32.const 48)
      (i32.rem_u (i32.div_u (local.get $n) (i32.const 10)) (i32.const 10))))
    (i32.store8 (i32.const 1034) (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
    (drop (call $keep (i32.const 1032) (i32.const 3) (i32.const 0) (i32.const 20000) (i32.const 0)))
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_if $again (i32.lt_u (local.get $n) (i32.const 200))))
  (i32.const 0))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param $chat i32) (result i32)
  (local $model i32) (local $len i32) (local $letter i32)
  (local.set $model (i32.load offset=16 (local.get $chat)))
  (local.set $len (i32.load offset=20 (local.get $chat)))
  (local.set $letter (i32.load8_u (local.get $model)))
  (if (i32.eq (local.get $letter) (i32.const 0x73)) (then
    (return (call $keep (i32.const 1024) (i32.const 1) (local.get $model) (local.get $len)
      (i32.const 0)))))
  (if (i32.eq (local.get $letter) (i32.const 0x74)) (then
    (return (call $keep (i32.const 1024) (i32.const 1) (local.get $model) (local.get $len)
      (i32.const 1)))))
  (if (i32.eq (local.get $letter) (i32.const 0x68)) (then
    (return (call $keep (i32.const 1024) (i32.const 1) (i32.const 0) (i32.const 70000)
      (i32.const 0)))))
  (if (i32.eq (local.get $letter) (i32.const 0x66)) (then (return (call $fill))))
  (if (i32.eq (local.get $letter) (i32.const 0x64)) (then
    (return (call $refuse
      (i32.add (i32.const 400) (call $delete (i32.const 1024) (i32.const 1)))
      (i32.const 0) (i32.const 0)))))
  (call $get (i32.const 1024) (i32.const 1) (i32.const 512))
  (if (i32.eqz (i32.load8_u (i32.const 512))) (then (return (i32.const 0))))
  (call $refuse (i32.const 400) (i32.load (i32.const 516)) (i32.load (i32.const 520))))
