;; world: validator
;; Does what the first letter of the chat's model says: a accept, m amend to one user message,
;; e amend to no message, n amend the temperature to NaN, r refuse with status 200, w answer,
;; o reroute, f fail, q fail without a word, u refuse in bytes that are no UTF-8.
;;
;; The result: is-err u8 @0; verdict tag u8 @8, its payload @16; a failure's message @8.
(data (i32.const 1024) "other")
(data (i32.const 1040) "\ff\fe")
(data (i32.const 1048) "code")
;; One message: role user, one text part, nothing else.
(data (i32.const 1056) "\02\00\00\00\60\04\00\00\01\00\00\00")
(data (i32.const 1120) "\00\04\00\00\05\00\00\00")
(func $text (param $at i32) (param $from i32) (param $len i32)
  (i32.store (local.get $at) (local.get $from))
  (i32.store offset=4 (local.get $at) (local.get $len)))
(func $verdict (param $tag i32)
  (i32.store8 (i32.const 8) (local.get $tag)))
(func (export "gapura:plugin/request-validation@0.1.0#validate") (param $chat i32) (result i32)
  (local $letter i32)
  (local.set $letter (i32.load8_u (i32.load offset=16 (local.get $chat))))
  (if (i32.eq (local.get $letter) (i32.const 0x6d)) (then  ;; m
    (call $verdict (i32.const 1))
    (i32.store8 (i32.const 16) (i32.const 1))
    (call $text (i32.const 20) (i32.const 1056) (i32.const 1))))
  (if (i32.eq (local.get $letter) (i32.const 0x65)) (then  ;; e
    (call $verdict (i32.const 1))
    (i32.store8 (i32.const 16) (i32.const 1))))
  (if (i32.eq (local.get $letter) (i32.const 0x6e)) (then  ;; n: sampling @32, some @40
    (call $verdict (i32.const 1))
    (i32.store8 (i32.const 32) (i32.const 1))
    (i32.store8 (i32.const 48) (i32.const 1))
    (f32.store (i32.const 52) (f32.const nan))))
  (if (i32.eq (local.get $letter) (i32.const 0x72)) (then  ;; r
    (call $verdict (i32.const 2))
    (i32.store16 (i32.const 16) (i32.const 200))
    (call $text (i32.const 20) (i32.const 1048) (i32.const 4))
    (call $text (i32.const 28) (i32.const 1024) (i32.const 5))))
  (if (i32.eq (local.get $letter) (i32.const 0x77)) (then  ;; w
    (call $verdict (i32.const 3))
    (call $text (i32.const 16) (i32.const 1024) (i32.const 5))
    (i32.store8 (i32.const 24) (i32.const 1))))
  (if (i32.eq (local.get $letter) (i32.const 0x6f)) (then  ;; o
    (call $verdict (i32.const 4))
    (call $text (i32.const 16) (i32.const 1024) (i32.const 5))))
  (if (i32.eq (local.get $letter) (i32.const 0x66)) (then  ;; f
    (i32.store8 (i32.const 0) (i32.const 1))
    (call $text (i32.const 8) (i32.const 1024) (i32.const 5))))
  (if (i32.eq (local.get $letter) (i32.const 0x71)) (then  ;; q
    (i32.store8 (i32.const 0) (i32.const 1))
    (call $text (i32.const 8) (i32.const 1024) (i32.const 0))))
  (if (i32.eq (local.get $letter) (i32.const 0x75)) (then  ;; u
    (call $verdict (i32.const 2))
    (call $text (i32.const 28) (i32.const 1040) (i32.const 2))))
  (i32.const 0))
